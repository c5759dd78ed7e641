"""Models that stand alone: each of one size, measured beside the members of a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Standalone:
    """A model that is made when it is needed, so that only one of several is in memory.

    Attributes:
        series: The name of the method.
        num_layers: Layers of the model.
        hash: What stands for its content; equal for equal models only.
        build: Makes it: an ordinary transformers model in evaluation mode.
        tokenizer: Its own tokenizer, if that is not the teacher's.
        about: What it is, as JSON values, for its record on disk.
    """

    series: str
    num_layers: int
    hash: str
    build: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase | None = None
    about: dict[str, object] | None = None
