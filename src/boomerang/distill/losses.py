"""The losses as sums over positions; the trainer divides once for the whole step.

So a step's loss does not depend on how its tokens fall into rows, micro-batches or processes.
Everything is computed in fp32, whatever the dtype of the arguments (fp64 stays fp64).

The distance between states has its gradient in closed form, because autograd would keep fp32 copies
of both states. Here the backward pass needs the states, which live anyway, and two numbers a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..text.rows import IGNORED as IGNORED
from .recipe import Distance, Loss

_EPSILON = 1e-8
# Tokens are compared in so many parts, but in none smaller than a processor's cache.
_PARTS = 8
_SMALLEST_PART = 2**17


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


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """What values of a dtype are summed in: fp32, or fp64 for fp64."""
    return torch.promote_types(dtype, torch.float32)


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Log softmax(logits / τ) over the last dimension, in fp32."""
    dtype = sum_dtype(logits.dtype)
    # Cast before the division: its result would be rounded to the 8 bits of bf16.
    scaled = logits if temperature == 1.0 else logits.to(dtype) / temperature
    return F.log_softmax(scaled, dim=-1, dtype=dtype)


def prediction_losses(
    logits: Tensor,
    teacher_logits: Tensor | None,
    targets: Tensor,
    loss: Loss,
    kl_share: Tensor,
    *,
    with_grad: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Σ CE, τ² Σ KL(teacher‖student), and the gradient of their weighted sum, in closed form.

    The factor τ² keeps the size of the gradient independent of τ (Hinton et al., arXiv 1503.02531,
    section 2). With p and q the distributions of student and teacher, the gradient with respect to
    the logits is p - [target] for CE, and τ (p_τ - q_τ) for the KL term.

    Args:
        logits: The student's, `[T, V]`.
        teacher_logits: The teacher's, `[T, V]`; None for no KL term.
        targets: `[T]`; positions with `IGNORED` have no cross-entropy.
        loss: The weights of the two terms, and τ.
        kl_share: Multiplies the weight of the KL term, 0-dimensional.
        with_grad: Whether to compute the gradient.

    Returns:
        CE and τ²·KL, 0-dimensional, and the gradient `[T, V]` of `ce·CE + kl·kl_share·τ²·KL`, in
        fp32.
    """
    tau = loss.temperature
    has_target, target = targets != IGNORED, targets.clamp_min(0)[:, None]
    log_p = log_probabilities(logits)
    ce = -torch.where(has_target, log_p.gather(1, target)[:, 0], 0).sum()
    kl = torch.zeros_like(ce)
    ce_weight = has_target[:, None].to(log_p.dtype) * loss.ce
    if teacher_logits is None:
        if not with_grad:
            return ce, kl, None
        gradient = log_p.exp_().mul_(ce_weight)
    else:
        log_p_tau = log_p if tau == 1.0 else log_probabilities(logits, tau)
        log_q = log_probabilities(teacher_logits, tau)
        q = log_q.exp()
        kl = log_q.sub_(log_p_tau).mul_(q).sum() * tau**2
        if not with_grad:
            return ce, kl, None
        kl_weight = loss.kl * tau * kl_share
        # In place from here on: nobody needs the logarithms again.
        if tau == 1.0:
            gradient = log_p.exp_().mul_(ce_weight + kl_weight)
        else:
            gradient = log_p.exp_().mul_(ce_weight).addcmul_(log_p_tau.exp_(), kl_weight)
        gradient.addcmul_(q, kl_weight, value=-1)
    return ce, kl, gradient.scatter_add_(1, target, -ce_weight)


def weighted_loss(prediction: Tensor, alignment: Tensor, counts: Counts, weights: Loss) -> Tensor:
    """The loss from its sums: the one place that divides.

    Args:
        prediction: Weighted sum of the cross-entropy and the KL term.
        alignment: Sums for each of the M+1 pairs, `[M+1]`; 0 for those that were not computed.
        counts: What to divide by.
        weights: The weights of the terms.
    """
    distance = alignment.sum() / counts.alignment.clamp_min(1)
    return prediction / counts.ce.clamp_min(1) + weights.alignment / len(alignment) * distance


def alignment_sum(
    student: Tensor, teacher: Tensor, mask: Tensor | None, distance: Distance
) -> Tensor:
    """Σ distance(student, teacher) over tokens.

    Args:
        student: Hidden states `[B, S, D]`.
        teacher: The hidden states they are pulled to, `[B, S, D]`; they get no gradient.
        mask: `[B, S]`, bool, true where a token counts; None for everywhere.
        distance: `cosine`: 1 - cos(a, b) (arXiv 2510.05064, section 3.2);
            `relative_squared_error`: ‖a-b‖²/‖b‖², which fixes the length of the state too.

    Returns:
        0-dimensional, fp32; it can be differentiated once.
    """
    result: Tensor = _Distance.apply(student, teacher, mask, distance)
    return result


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, mask: Tensor | None, distance: Distance
    ) -> Tensor:
        measure = _cosine if distance == "cosine" else _relative_squared_error
        with torch.autocast(student.device.type, enabled=False):
            parts = [measure(a, b) for _, a, b in _parts(student, teacher)]
        values, of_difference, of_teacher = (torch.cat(p) for p in zip(*parts, strict=True))
        ctx.save_for_backward(student, teacher, mask, of_difference, of_teacher)
        return values.sum() if mask is None else values.masked_fill_(~mask.flatten(), 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, mask, of_difference, of_teacher = ctx.saved_tensors
        of_difference, of_teacher = of_difference * factor, of_teacher * factor
        result = student.new_empty(student.shape).flatten(0, -2)
        for part, a, b in _parts(student, teacher):
            difference = torch.sub(a, b).mul_(of_difference[part, None])
            result[part] = difference.addcmul_(b, of_teacher[part, None])
        if mask is not None:
            result.masked_fill_(~mask.flatten()[:, None], 0)
        return result.view_as(student), None, None, None


def _parts(student: Tensor, teacher: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """A few tokens at a time: their places, and both states in fp32, `[T, D]`."""
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    count, width = student.shape
    size = max(math.ceil(count / _PARTS), math.ceil(_SMALLEST_PART / width))
    dtype = sum_dtype(student.dtype)
    for start in range(0, count, size):
        part = slice(start, start + size)
        yield part, student[part].to(dtype), teacher[part].to(dtype)


def _cosine(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1 - cos(a, b) for each token, and its gradient as factors of a - b and of b."""
    length_a = torch.linalg.vector_norm(a, dim=-1)
    lengths = length_a.clamp_min(_EPSILON) * torch.linalg.vector_norm(b, dim=-1).clamp_min(_EPSILON)
    cosine = (a * b).sum(-1) / lengths
    # d/da = cos·a/‖a‖² - b/(‖a‖‖b‖); a state of no length has no direction to hold on to.
    of_a = torch.where(length_a > _EPSILON, cosine / length_a.square(), 0)
    return 1 - cosine, of_a, of_a - 1 / lengths


def _relative_squared_error(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """‖a-b‖²/‖b‖² for each token, and its gradient as factors of a - b and of b."""
    scale = torch.linalg.vector_norm(b, dim=-1).square().clamp_min(_EPSILON)
    error = torch.linalg.vector_norm(a - b, dim=-1).square()
    return error / scale, 2 / scale, torch.zeros_like(scale)
