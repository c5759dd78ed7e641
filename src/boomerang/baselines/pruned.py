"""The training-free pruners at wanted sizes, as models to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.loading import check_tokens
from ..evaluate.perplexity import fit_window
from ..models.modules import layer_stack
from ..text.documents import read_documents
from ..text.windows import Text, prepare
from . import laco, shortgpt
from .combination import Plan, describe, model_hash
from .combine import combine
from .score_cache import Cache
from .scores import PlanScores
from .search import search
from .standalone import Standalone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def calibration_text(
    paths: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel
) -> Text:
    """Text to calibrate on: documents in windows of at most 2048 tokens that do not overlap.

    Args:
        paths: UTF-8 text files; all of them is used.
        tokenizer: The teacher's.
        teacher: Its config tells the most positions it takes.

    Raises:
        DataError: A file cannot be read, there is nothing in it, or a token has no row in the
            teacher's embedding.
    """
    window = fit_window(teacher.config)
    text = prepare(read_documents(paths), tokenizer, window=window, stride=window)
    check_tokens(teacher, text.largest_token)
    return text


def shortgpt_models(
    teacher: PreTrainedModel,
    text: Text,
    sizes: Sequence[int],
    *,
    teacher_hash: str,
    cache: Cache | None = None,
) -> list[Standalone]:
    """ShortGPT at wanted sizes: block influence is measured once, on the whole teacher.

    Args:
        teacher: The live teacher; left as it is.
        text: Calibration text.
        sizes: Numbers of layers.
        teacher_hash: What stands for the teacher.
        cache: Where scores are remembered.

    Raises:
        LayerMapError: A size is no size below the teacher's.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    scores = PlanScores(teacher, text, teacher_hash=teacher_hash, cache=cache or Cache())
    influence = scores.influence()
    plans = {size: shortgpt.remove_lowest(influence, size) for size in sizes}
    return [
        _model(teacher, shortgpt.SERIES, plan, teacher_hash, {"block_influence": influence})
        for plan in plans.values()
    ]


def laco_models(
    teacher: PreTrainedModel,
    text: Text,
    sizes: Sequence[int],
    *,
    teacher_hash: str,
    cache: Cache | None = None,
    settings: Sequence[laco.Settings] | None = None,
) -> list[Standalone]:
    """LaCo at wanted sizes: of all settings' plans the one with the lowest calibration loss.

    Args:
        teacher: The live teacher; left as it is.
        text: Calibration text.
        sizes: Numbers of layers.
        teacher_hash: What stands for the teacher.
        cache: Where scores are remembered, so that a search resumes.
        settings: What to search over; by default `search.reasonable`.

    Raises:
        LayerMapError: A size is no size below the teacher's, or cannot be reached.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    scores = PlanScores(teacher, text, teacher_hash=teacher_hash, cache=cache or Cache())
    depth = len(layer_stack(teacher))
    found = search(depth, sizes, scores.similarity, scores.loss, settings)
    return [
        _model(
            teacher,
            laco.SERIES,
            best.plan,
            teacher_hash,
            {"settings": asdict(best.settings), "calibration_loss": best.loss, "of": best.tried},
        )
        for best in found.values()
    ]


def _model(
    teacher: PreTrainedModel, series: str, plan: Plan, teacher_hash: str, about: dict[str, object]
) -> Standalone:
    return Standalone(
        series=series,
        num_layers=len(plan),
        hash=model_hash(teacher_hash, series, plan),
        build=partial(combine, teacher, plan),
        about={"layers": describe(plan), **about},
    )
