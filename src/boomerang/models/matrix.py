"""An output matrix that is used many times over, for a few tokens each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The sum of a parameter's gradients, for each parameter.
Sums = Mapping[Tensor, Tensor]


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is no more than an `nn.Linear`: not quantised, adapted or parametrised."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and "forward" not in vars(module)
        and isinstance(module._parameters.get("weight"), nn.Parameter)
    )


class Matrix:
    """Stands in for the forward of a plain `nn.Linear`, with the same result.

    Autograd would make the weight's gradient, as large as the weight, anew at each use; here each
    use is added to a sum in place. Under autocast the weight is cast once instead of at each use.

    Args:
        module: A plain `nn.Linear`.
        sums: Where the gradients are added up, by the parameters of the module.
    """

    def __init__(self, module: nn.Linear, sums: Sums) -> None:
        kind = module.weight.device.type
        cast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if cast else module.weight.dtype
        self.weight = module.weight.detach().to(dtype)
        self.bias = None if module.bias is None else module.bias.detach().to(dtype)
        self.weight_sum = sums.get(module.weight)
        self.bias_sum = None if module.bias is None else sums.get(module.bias)

    def __call__(self, states: Tensor) -> Tensor:
        """`[..., D]` -> `[..., V]`."""
        result: Tensor = _Product.apply(states.to(self.weight.dtype), self)
        return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, matrix: Matrix) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(states)
        return F.linear(states, matrix.weight, matrix.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        matrix: Matrix = ctx.matrix
        rows, states = gradient.flatten(0, -2), ctx.saved_tensors[0].flatten(0, -2)
        if matrix.weight_sum is not None:
            _add_product(matrix.weight_sum, rows.T, states)
        if matrix.bias_sum is not None:
            matrix.bias_sum += rows.sum(0, dtype=matrix.bias_sum.dtype)
        return gradient @ matrix.weight, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
