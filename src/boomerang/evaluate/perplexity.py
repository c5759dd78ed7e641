"""Log-likelihoods of text under one model, and perplexity and bits per byte from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import ResultsError
from .documents import Text, Window
from .statistics import Estimate, Floats, exponential, ratio, scaled

DEFAULT_WINDOW = 2048
"""Positions a model sees at once, unless told otherwise: the sequence length of the paper."""

# Logits turned to fp32 at a time: 2**26 of them take 256 MiB, whatever the vocabulary.
_LOGITS = 1 << 26


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


def score_text(
    model: PreTrainedModel,
    text: Text,
    *,
    batch_size: int = 8,
    advance: Callable[[int], None] | None = None,
) -> Scores:
    """Score a text with one model.

    Args:
        model: A causal language model on any device, put into evaluation mode by the caller.
        text: From `prepare`.
        batch_size: Windows per call of the model.
        advance: Called with the number of windows after each call of the model.

    Raises:
        ResultsError: A log-likelihood is not finite.
    """
    windows = text.windows
    nll = np.zeros(len(windows))
    # Longest first: little padding, and the batch that needs most memory is tried at once.
    by_length = sorted(range(len(windows)), key=lambda i: -len(windows[i].inputs))
    for first in range(0, len(windows), batch_size):
        batch = by_length[first : first + batch_size]
        nll[batch] = score_batch(model, [windows[i] for i in batch])
        if advance is not None:
            advance(len(batch))
    if not np.isfinite(nll).all():
        raise ResultsError(
            "the model gives log-likelihoods that are not finite",
            fix="its weights are broken, or its dtype is too narrow (try float32)",
        )
    return Scores(nll, np.array([float(len(w.targets)) for w in windows]), text.num_bytes)


@torch.no_grad()
def score_batch(model: PreTrainedModel, windows: Sequence[Window]) -> list[float]:
    """The negative log-likelihood of each window's targets, in nats, from one call of the model.

    Log-softmax runs in fp32 and the sum in float64.

    Args:
        model: A causal language model in evaluation mode.
        windows: One batch. Shorter windows are padded on the right, where causal attention never
            looks, and the padding is masked besides.
    """
    width = max(len(window.inputs) for window in windows)
    inputs = torch.zeros(len(windows), width, dtype=torch.long)
    mask = torch.zeros_like(inputs)
    for row, window in enumerate(windows):
        inputs[row, : len(window.inputs)] = torch.tensor(window.inputs)
        mask[row, : len(window.inputs)] = 1
    device = model.device
    logits = model(
        input_ids=inputs.to(device), attention_mask=mask.to(device), use_cache=False
    ).logits
    sums = []
    rows_at_once = max(1, _LOGITS // logits.shape[-1])
    for row, window in enumerate(windows):
        scored = logits[row, window.start : len(window.inputs)]
        targets = torch.tensor(window.targets, device=logits.device)
        losses = [
            torch.nn.functional.cross_entropy(part.float(), wanted, reduction="none").cpu()
            for part, wanted in zip(
                scored.split(rows_at_once), targets.split(rows_at_once), strict=True
            )
        ]
        sums.append(torch.cat(losses).double().sum().item())
    return sums


def fit_window(config: PretrainedConfig, window: int = DEFAULT_WINDOW) -> int:
    """The window asked for, or what the model has positions for where that is less.

    Args:
        config: The model's config; one without a limit takes any window.
        window: The positions asked for.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(window, limit) if isinstance(limit, int) and limit > 0 else window
