"""The distance between two hidden states, as a sum over tokens with its gradient in closed form.

Autograd would keep fp32 copies of both states and of what is made of them. Here a few tokens at a
time are looked at in fp32, and all that stays for the backward pass are the two states themselves,
which live anyway, and two numbers for each token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .losses import sum_dtype
from .sections import Distance

_EPSILON = 1e-8
# Tokens are looked at in so many parts, but in none smaller than a processor's cache.
_PARTS = 8
_SMALLEST_PART = 2**17


def alignment_sum(
    student: Tensor, teacher: Tensor, mask: Tensor | None, distance: Distance
) -> Tensor:
    """Σ distance(student, teacher) over tokens.

    Args:
        student: Hidden states `[B, S, D]`.
        teacher: The hidden states they are pulled to, `[B, S, D]`; they get no gradient.
        mask: `[B, S]`, bool, true where a token counts; None for everywhere. The states of the
            other tokens may hold anything.
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
    """A few tokens at a time: where they are, and both of their states in fp32, `[T, D]`."""
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
