"""Perplexity and bits per byte from log-likelihoods by window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..models.modules import max_positions
from ..text.windows import Text
from .statistics import Estimate, Floats, exponential, ratio, scaled

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEFAULT_WINDOW = 2048
"""Positions a model sees at once, unless told otherwise: the sequence length of the paper."""


@dataclass(frozen=True)
class Scores:
    """How well one model predicts a text; the items are the windows.

    Attributes:
        nll: Shape (windows,), float64: negative log-likelihood of each window's targets, in nats.
        tokens: Shape (windows,), float64: how many targets each window has.
        num_bytes: UTF-8 bytes of the text.
    """

    nll: Floats
    tokens: Floats
    num_bytes: int

    @classmethod
    def of(cls, text: Text, nll: Floats) -> Scores:
        """The scores of a text from the negative log-likelihood of each window, in nats."""
        tokens = np.array([float(len(window.targets)) for window in text.windows])
        return cls(nll, tokens, text.num_bytes)

    @property
    def nats_per_token(self) -> Estimate:
        """The mean negative log-likelihood of a token, in nats."""
        return ratio(self.nll, self.tokens)

    @property
    def perplexity(self) -> Estimate:
        """exp(total negative log-likelihood / tokens)."""
        return exponential(self.nats_per_token)

    @property
    def bits_per_byte(self) -> Estimate:
        """Total negative log-likelihood in bits / bytes: comparable across tokenizers.

        The bytes per token are a property of the text, the same for every model, and are taken as
        exact in the standard error.
        """
        tokens_per_byte = float(self.tokens.sum()) / self.num_bytes
        return scaled(self.nats_per_token, tokens_per_byte / math.log(2))


def fit_window(config: PretrainedConfig, window: int = DEFAULT_WINDOW) -> int:
    """The window asked for, or what the model has positions for where that is less.

    Args:
        config: The model's config; one without a limit takes any window.
        window: The positions asked for.
    """
    limit = max_positions(config)
    return window if limit is None else min(window, limit)
