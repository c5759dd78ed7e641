"""ShortGPT: the layers that change the state least go, all at once and without training.

arXiv 2403.03853. Any layer may go, the first one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..evaluate.batches import text_batches
from ..evaluate.results import Row
from ..models.runner import Runner
from ..orders.similarity import cosine_sum, layer_states
from ..text.windows import Text
from . import check_size
from .bench import Standalone
from .pruning import Plan, PlanScores, keep, run_pruner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .bench import Bench

SERIES = "shortgpt"


def run(bench: Bench, results: str | Path, **options: Any) -> list[Row]:
    """Measure ShortGPT; arguments and errors as in `pruning.run_pruner`."""
    return run_pruner(models, bench, Path(results), **options)


def models(scores: PlanScores, sizes: Sequence[int]) -> list[Standalone]:
    """ShortGPT at wanted sizes: block influence is measured once, on the whole teacher.

    Raises:
        LayerMapError: A size is no size below the teacher's.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    influence = scores.of_teacher("block_influence", block_influence)
    about: dict[str, object] = {"block_influence": influence}
    return [scores.model(SERIES, remove_lowest(influence, size), about) for size in sizes]


@torch.no_grad()
def block_influence(teacher: PreTrainedModel, text: Text) -> list[float]:
    """Block influence of every layer: BI_i = 1 - mean cos(layer input, layer output).

    The mean is over all tokens of the text, in fp32 (arXiv 2403.03853, section 3.2).
    """
    runner = Runner(teacher)
    sums = [0.0] * runner.num_layers
    count = 0
    for batch in text_batches(text, teacher):
        for layer, (before, after) in enumerate(pairwise(layer_states(runner, batch))):
            sums[layer] += cosine_sum(before, after)
        count += len(batch.targets)
    return [1 - value / count for value in sums]


def remove_lowest(influence: Sequence[float], num_layers: int) -> Plan:
    """The model of the layers with the highest influence; of equals the lower layers stay.

    Raises:
        LayerMapError: None or all would go.
    """
    check_size(num_layers, len(influence))
    ranked = sorted(range(len(influence)), key=lambda layer: (-influence[layer], layer))
    return keep(ranked[:num_layers])
