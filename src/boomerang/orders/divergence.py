"""How well models predict text, and how far their predictions are from another model's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluate.batches import Batch, text_batches
from ..models.head import Head
from ..models.runner import LAST, Runner
from ..text.windows import Text

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
        One for each model, in their order.
    """
    runners = [Runner(model) for model in models]
    truth = None if reference is None else Runner(reference)
    sums = torch.zeros(len(models), 2, dtype=torch.float64)
    count = 0
    for batch in text_batches(text, models[0]):
        sums += _sums(runners, batch, truth)
        count += len(batch.targets)
    return [Prediction(loss / count, kl / count) for loss, kl in sums.tolist()]


def _sums(runners: Sequence[Runner], batch: Batch, reference: Runner | None) -> Tensor:
    """Σ negative log-likelihood and Σ KL over a batch's targets, `[models, 2]`, float64."""
    ends = [_end(runner, batch) for runner in runners]
    truth = None if reference is None else _end(reference, batch)
    size = _LOGITS_ON_CPU if ends[0][1].device.type == "cpu" else _LOGITS
    size = max(1, size // runners[0].head.vocab_size)
    sums = torch.zeros(len(runners), 2, dtype=torch.float64)
    for start in range(0, len(batch.targets), size):
        part = slice(start, start + size)
        expected = None if truth is None else _log_probs(*truth, part)
        target = torch.from_numpy(batch.targets[part])[:, None]
        for index, (head, states) in enumerate(ends):
            found = _log_probs(head, states, part)
            sums[index, 0] -= float(found.gather(1, target.to(found.device)).double().sum())
            if expected is not None:
                kl = F.kl_div(found, expected, reduction="none", log_target=True)
                sums[index, 1] += float(kl.sum(-1).double().sum())
    return sums


def _end(runner: Runner, batch: Batch) -> tuple[Head, Tensor]:
    """A model's head, and its final states that predict targets, `[R, D]`."""
    return runner.head, batch.read(runner.run(batch.inputs)[LAST])


def _log_probs(head: Head, states: Tensor, part: slice) -> Tensor:
    """Log-probabilities `[T, V]` of some final states of `[R, D]`, in fp32."""
    return F.log_softmax(head(states[part]), dim=-1, dtype=torch.float32)
