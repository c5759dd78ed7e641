"""A live teacher's layers combined into a new model; the teacher is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from ..models.modules import layer_stack
from ..models.shell import assemble, check_layers_can_move
from .combination import Combination, Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def combine(teacher: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """An ordinary model of the teacher's class, as a plan says.

    Layers that are one of the teacher's share its tensors; sums are computed in fp32 and rounded
    to the teacher's dtype.

    Args:
        teacher: The live teacher.
        plan: The layers of the new model.

    Raises:
        ArchitectureError: The layers of a sum have no common shape, or tensors that cannot be
            added; or a layer depends on its position.
        ConfigError: The config cannot be carried over to these layers.
    """
    bases = [layer.base for layer in plan]
    sources = [(teacher, base) for base in bases]
    model = assemble(teacher, sources, bases, embedding=teacher, head=teacher)
    if len(plan) < len(layer_stack(teacher)):
        check_layers_can_move(model)
    stack = layer_stack(teacher)
    for layer, combination in zip(layer_stack(model), plan, strict=True):
        if combination != Combination.of(combination.base):
            _set_tensors(layer, _sums(stack, combination))
    return model


def can_combine(teacher: PreTrainedModel, plan: Plan) -> bool:
    """Whether the layers of all sums of a plan have tensors of the same names and shapes."""
    stack = layer_stack(teacher)
    return all(
        _shapes(stack[layer]) == _shapes(stack[combination.base])
        for combination in plan
        for layer, _ in combination.terms
    )


def _sums(stack: nn.ModuleList, combination: Combination) -> dict[str, Tensor]:
    where = f"layer {combination.base}"
    states = [(stack[layer].state_dict(keep_vars=True), c) for layer, c in combination.terms]
    if any(
        _shapes(stack[layer]) != _shapes(stack[combination.base]) for layer, _ in combination.terms
    ):
        raise ArchitectureError("has other shapes than the layers merged into it", where=where)
    result = {}
    for name in states[0][0]:
        terms = [(state[name], coefficient) for state, coefficient in states]
        if any(not tensor.is_floating_point() or tensor.is_meta for tensor, _ in terms):
            raise ArchitectureError(
                f"{name} cannot be added",
                where=where,
                fix="give a teacher that is neither quantised nor offloaded",
            )
        result[name] = _sum(terms)
    return result


@torch.no_grad()
def _sum(terms: Sequence[tuple[Tensor, int]]) -> Tensor:
    first, coefficient = terms[0]
    if len(terms) == 1 and coefficient == 1:
        return first
    total = torch.zeros_like(first, dtype=torch.promote_types(first.dtype, torch.float32))
    for tensor, factor in terms:
        total.add_(tensor.to(total.device, total.dtype), alpha=factor)
    return total.to(first.dtype)


def _set_tensors(layer: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a layer tensors of its own; modules that share its old ones keep those."""
    for path, tensor in tensors.items():
        parent, _, name = path.rpartition(".")
        module = layer.get_submodule(parent)
        if name in module._buffers:
            module._buffers[name] = tensor.detach()
        else:
            parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
            module._parameters[name] = parameter


def _shapes(layer: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in layer.state_dict(keep_vars=True).items()}
