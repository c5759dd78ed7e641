"""The family that a model which is no member of it is measured beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Beside:
    """What makes results of a model comparable with those of a family.

    Attributes:
        kept: The family's kept layers, which its results are told by.
        config: Of its teacher: the positions that a text's windows are cut for.
        tokenizer: Of its teacher. A model with another one, or with fewer positions, gets the text
            in windows of its own, and of that only the bits per byte can be compared.
    """

    kept: tuple[int, ...]
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
