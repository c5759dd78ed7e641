"""The three losses as sums over positions; whoever knows the whole step divides, once.

Nothing here takes a mean, so a step's loss does not depend on how its tokens fall into rows,
micro-batches or processes. Everything is computed in fp32, whatever the dtype of the arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Distance, Loss

IGNORED = -100
_EPSILON = 1e-8


@dataclass(frozen=True)
class Counts:
    """What the sums are divided by, 0-dimensional tensors.

    Args:
        ce: Positions of the cross-entropy.
        kl: Positions of the KL term.
        alignment: Tokens whose states are aligned.
    """

    ce: Tensor
    kl: Tensor
    alignment: Tensor


def shifted(labels: Tensor) -> Tensor:
    """For each position the label of the next one, `IGNORED` for the last; `[B, S]` -> `[B, S]`."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log softmax(logits / τ) over the last dimension, in fp32."""
    # Cast before the division: its result would be rounded to the 8 bits of bf16.
    scaled = logits if temperature == 1.0 else logits.float() / temperature
    return F.log_softmax(scaled, dim=-1, dtype=torch.float32)


def cross_entropy_sum(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Σ -log p(target).

    Args:
        log_probs: `[T, V]`, fp32.
        targets: `[T]`; positions with `IGNORED` do not count.
    """
    return F.nll_loss(log_probs, targets, ignore_index=IGNORED, reduction="sum")


def kl_sum(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """τ² Σ KL(teacher‖student).

    The factor keeps the size of the gradient independent of τ (Hinton et al., arXiv 1503.02531,
    section 2).

    Args:
        student: Log-probabilities at temperature τ, `[T, V]`, fp32.
        teacher: The same of the teacher.
        temperature: τ.
    """
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence if temperature == 1.0 else divergence * temperature**2


def alignment_sum(
    student: Tensor, teacher: Tensor, mask: Tensor | None, distance: Distance
) -> Tensor:
    """Σ distance(student, teacher) over tokens.

    Args:
        student: Hidden states `[B, S, D]`.
        teacher: The hidden states they are pulled to, no gradient.
        mask: `[B, S]`, bool, true where there is a real token; None for everywhere.
        distance: `cosine`: 1 - cos(a, b) (arXiv 2510.05064, section 3.2);
            `relative_squared_error`: ‖a-b‖²/‖b‖², which fixes the length of the state too.
    """
    if mask is not None:
        # Select first: padding may hold anything, and costs nothing this way.
        student, teacher = student[mask], teacher[mask]
    a, b = student.float(), teacher.float()
    if distance == "cosine":
        values = 1 - F.cosine_similarity(a, b, dim=-1, eps=_EPSILON)
    else:
        values = (a - b).square().sum(-1) / b.square().sum(-1).clamp_min(_EPSILON)
    return values.sum()


def weighted_loss(
    ce: Tensor, kl: Tensor, alignment: Tensor, counts: Counts, weights: Loss
) -> Tensor:
    """The loss from its sums: the one place that divides.

    Args:
        ce: Sum of the cross-entropy.
        kl: Sum of the KL term, τ² included.
        alignment: Sums for each of the M+1 pairs, `[M+1]`; 0 for those that were not computed.
        counts: What to divide by.
        weights: The weights of the terms.
    """
    return (
        weights.ce * ce / counts.ce.clamp_min(1)
        + weights.kl * kl / counts.kl.clamp_min(1)
        + weights.alignment / len(alignment) * alignment.sum() / counts.alignment.clamp_min(1)
    )
