"""Cross-entropy and KL divergence from final hidden states, without all logits at any time.

Student and teacher logits are made for a few tokens at a time. Their gradient has a closed form, so
the forward pass takes it back to the hidden states and the head at once. The backward pass only
scales it.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..models.head import Head, Sums
from .losses import IGNORED, prediction_losses, shifted, sum_dtype
from .recipe import Loss

# A gradient in less than fp32 is scaled in parts of this many elements, each by way of fp32.
_PART = 2**22
# Matrix products of fewer rows wait for the weights a good part of the time.
_ROWS = 256
# Logits whose losses are computed at once on a CPU: what is made of them stays in its caches.
_IN_CACHE = 2**19


class Targets:
    """The targets of a batch and their positions.

    Args:
        labels: `[B, S]`, unshifted; `IGNORED` where a token is no target.
        everywhere: Compare student and teacher at all positions, not only at those with a target.

    Attributes:
        positions: The positions that are compared, as indices into the batch's B·S, `[T]`.
        labels: The token after each position, `[T]`; `IGNORED` where that is no target.
        ce_count: The number of targets, 0-dimensional.
        kl_count: T, 0-dimensional.
    """

    def __init__(self, labels: Tensor, *, everywhere: bool = False) -> None:
        following = shifted(labels).flatten()
        is_target = following != IGNORED
        looked_at = torch.ones_like(is_target) if everywhere else is_target
        self.positions = looked_at.nonzero()[:, 0]
        self.labels = following[self.positions]
        self.ce_count = is_target.sum()
        self.kl_count = looked_at.sum()


@dataclass(frozen=True)
class Prediction:
    """What is to be predicted, and what the prediction is compared with.

    Args:
        head: The head of the model that learns.
        targets: What is to be predicted.
        loss: The weights of CE and KL, and the temperature.
        teacher: The teacher's head and final hidden states `[B, S, D]`; None for no KL term.
    """

    head: Head
    targets: Targets
    loss: Loss
    teacher: tuple[Head, Tensor] | None = None

    def kl_share(self, dtype: torch.dtype) -> Tensor:
        """Scales the KL term's sum so that dividing by the number of targets gives its mean."""
        targets = self.targets
        return targets.ce_count.clamp_min(1).to(dtype) / targets.kl_count.clamp_min(1)

    def sums(self, states: Tensor, tokens: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The losses as sums over tokens, from final hidden states `[B, S, D]`.

        `tokens` go at a time; by default their logits are about as large as all hidden states.

        Returns:
            0-dimensional, in fp32: `ce·CE + kl·kl_share·τ²·KL`, the only one with a gradient
            (which cannot be differentiated again); CE; τ²·KL.
        """
        if tokens is None:
            tokens = _at_a_time(len(self.targets.positions), states.shape[-1], self.head.vocab_size)
        # The parameters are arguments, so that wrappers for data parallelism see their gradients.
        result: tuple[Tensor, Tensor, Tensor] = _Sums.apply(
            self, tokens, torch.is_grad_enabled(), states, *self.head.parameters()
        )
        return result


def _at_a_time(count: int, width: int, vocab_size: int) -> int:
    """So many tokens that their logits are about as large as the hidden states of all `count`."""
    # At least `_ROWS`, unless that is more than an eighth of all.
    return max(math.ceil(count * width / vocab_size), min(_ROWS, math.ceil(count / 8)), 1)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Prediction,
        tokens: int,
        with_grad: bool,
        states: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        flat = states.detach().flatten(0, 1)
        # A batch without targets has gradients too, zeros: other processes may wait for them.
        gradient = flat.new_zeros(flat.shape) if with_grad else None
        sums = {p: p.new_zeros(p.shape, dtype=sum_dtype(p.dtype)) for p in parameters if with_grad}
        dtype = sum_dtype(flat.dtype)
        ce, kl = flat.new_zeros(2, dtype=dtype).unbind()
        kl_share = problem.kl_share(dtype)
        with ExitStack() as stack:
            stack.enter_context(problem.head.repeated(sums))
            if problem.teacher is not None:
                stack.enter_context(problem.teacher[0].repeated({}))
            for start in range(0, len(problem.targets.positions), tokens):
                chunk = slice(start, start + tokens)
                more = _chunk(problem, chunk, kl_share, flat, gradient, sums)
                ce, kl = ce + more[0], kl + more[1]
        if gradient is not None:
            own = (total.to(p.dtype) for p, total in sums.items())
            ctx.gradients = [gradient.view_as(states), *own]
        loss = problem.loss
        total = loss.ce * ce + loss.kl * kl_share * kl
        ctx.mark_non_differentiable(ce, kl)
        return total, ce, kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place and handed over: the head's may be the largest tensor of the whole step.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of the losses have been handed over already")
        for gradient in gradients:
            for part in gradient.view(-1).split(_PART):
                part.copy_(part.to(factor.dtype).mul_(factor))
        return None, None, None, *gradients


def _chunk(
    problem: Prediction,
    chunk: slice,
    kl_share: Tensor,
    states: Tensor,
    gradient: Tensor | None,
    sums: Sums,
) -> tuple[Tensor, Tensor]:
    """CE and KL of a few tokens; their gradients are added to `gradient` and `sums`."""
    positions = problem.targets.positions[chunk]
    with_grad = gradient is not None
    leaf = states[positions].requires_grad_(with_grad)
    with torch.set_grad_enabled(with_grad):
        logits = problem.head(leaf)
    teacher_logits = None
    if problem.teacher is not None:
        head, teacher_states = problem.teacher
        teacher_logits = head(teacher_states.flatten(0, 1)[positions])
    # Losses are computed in fp32, also where autocast would choose less.
    with torch.autocast(states.device.type, enabled=False):
        ce, kl, of_logits = _losses(
            problem, logits.detach(), teacher_logits, problem.targets.labels[chunk], kl_share,
            with_grad=with_grad,
        )  # fmt: skip
        if gradient is not None:
            parameters = list(sums)
            of_leaf, *others = torch.autograd.grad(
                logits, [leaf, *parameters], of_logits, allow_unused=True
            )
            gradient[positions] = of_leaf
            for parameter, other in zip(parameters, others, strict=True):
                if other is not None:
                    sums[parameter] += other
    return ce, kl


def _losses(
    problem: Prediction,
    logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    kl_share: Tensor,
    *,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`prediction_losses`, a few rows at a time, with the gradient in the dtype of the logits."""
    count, vocab_size = logits.shape
    size = max(1, _IN_CACHE // vocab_size) if logits.device.type == "cpu" else max(1, count)
    gradient = torch.empty_like(logits) if with_grad else None
    sums = []
    for start in range(0, count, size):
        rows = slice(start, start + size)
        teacher = None if teacher_logits is None else teacher_logits[rows]
        ce, kl, of_logits = prediction_losses(
            logits[rows], teacher, labels[rows], problem.loss, kl_share, with_grad=with_grad
        )
        sums.append(torch.stack((ce, kl)))
        if gradient is not None and of_logits is not None:
            gradient[rows] = of_logits
    ce, kl = torch.stack(sums).sum(0)
    return ce, kl, gradient
