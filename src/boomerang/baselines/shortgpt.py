"""ShortGPT: the layers that change the state least go, all at once and without training.

arXiv 2403.03853. Any number of layers, any of them, the first one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from ..errors import LayerMapError
from ..evaluate.batches import text_batches
from ..models.runner import Runner
from ..orders.similarity import cosine_sum, layer_states
from ..text.windows import Text
from .combination import Plan, keep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SERIES = "shortgpt"


@torch.no_grad()
def block_influence(teacher: PreTrainedModel, text: Text) -> list[float]:
    """Block influence of every layer: BI_i = 1 - mean cos(layer input, layer output).

    The mean is over all tokens of the text, in fp32 (arXiv 2403.03853, section 3.2).

    Args:
        teacher: In evaluation mode.
        text: Calibration text.
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

    Args:
        influence: Of every teacher layer.
        num_layers: How many stay.

    Raises:
        LayerMapError: None or all would go.
    """
    if not 1 <= num_layers < len(influence):
        raise LayerMapError(
            f"{num_layers} of {len(influence)} layers cannot be kept",
            fix=f"give 1 to {len(influence) - 1}",
        )
    ranked = sorted(range(len(influence)), key=lambda layer: (-influence[layer], layer))
    return keep(ranked[:num_layers])
