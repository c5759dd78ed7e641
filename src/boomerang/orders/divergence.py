"""How well models predict text, and how far from another model they predict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.head import Head
from ..text.windows import Text
from .running import Batch, batches, final_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Logits in memory at a time, for each of two models.
_LOGITS_ON_CPU = 1 << 22
_LOGITS = 1 << 26


@dataclass(frozen=True)
class Prediction:
    """How a model predicts a text.

    Attributes:
        loss: Mean negative log-likelihood of a token, in nats.
        kl: Mean KL(reference‖model) of a token, in nats; 0 where there is no reference.
    """

    loss: float
    kl: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def predictions(
    models: Sequence[PreTrainedModel], text: Text, reference: PreTrainedModel | None = None
) -> list[Prediction]:
    """Measure models on text; log-softmax and sums in fp32 and above.

    Args:
        models: In evaluation mode, all with the same vocabulary and device.
        text: What to predict.
        reference: The model that KL is measured from, such as the teacher.

    Returns:
        One each, in the order of the models.
    """
    every = [*models] if reference is None else [*models, reference]
    sums = torch.zeros(len(models), 2, dtype=torch.float64)
    count = 0
    for batch in batches(text.windows, models[0].device):
        sums += _sums(every, batch, with_reference=reference is not None)
        count += len(batch.targets)
    return [Prediction(loss / count, kl / count) for loss, kl in sums.tolist()]


def _sums(models: Sequence[PreTrainedModel], batch: Batch, *, with_reference: bool) -> Tensor:
    states = [final_states(model, batch) for model in models]
    heads = [Head(model) for model in models]
    bound = _LOGITS_ON_CPU if batch.tokens.device.type == "cpu" else _LOGITS
    size = max(1, bound // heads[0].vocab_size)
    sums = torch.zeros(len(models) - with_reference, 2, dtype=torch.float64)
    for start in range(0, len(batch.targets), size):
        part = slice(start, start + size)
        truth = _log_probs(heads[-1], states[-1][part]) if with_reference else None
        for index in range(len(sums)):
            log_probs = _log_probs(heads[index], states[index][part])
            target = batch.targets[part].to(log_probs.device)[:, None]
            sums[index, 0] -= float(log_probs.gather(1, target).double().sum())
            if truth is not None:
                divergence = F.kl_div(log_probs, truth, reduction="none", log_target=True)
                sums[index, 1] += float(divergence.sum(-1).double().sum())
    return sums


def _log_probs(head: Head, states: Tensor) -> Tensor:
    return F.log_softmax(head(states), dim=-1, dtype=torch.float32)
