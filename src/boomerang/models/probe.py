"""Whether a layer may stand at another position than the one it was made for.

A layer can depend on its index in ways that no config key shows: a constant computed from the
depth, two cache entries a layer. Such a model would work in memory, where a shell keeps its
constants, and be another one once it was saved and loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import ArchitectureError
from .modules import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# State of a live module, not of what its config makes of it.
_STATE = frozenset({*vars(nn.Module()), "gradient_checkpointing"})


def check_layers_can_move(member: PreTrainedModel) -> None:
    """Compare a member's layers with those of a fresh model of the member's own config.

    Costs no memory: the fresh model has no storage. Modules whose class differs from the fresh ones
    (quantised, wrapped by adapters) tell nothing and are passed over.

    Args:
        member: A model made by `assemble`, with fewer layers than its teacher.

    Raises:
        ArchitectureError: A layer has an attribute that depends on its position.
    """
    with torch.device("meta"):
        fresh = layer_stack(type(member)(member.config))
    for i, (layer, other) in enumerate(zip(layer_stack(member), fresh, strict=True)):
        others: dict[str, nn.Module] = dict(other.named_modules())
        for path, module in layer.named_modules():
            twin = others.get(path)
            if twin is not None and type(module) is type(twin):
                _compare(module, twin, f"layer {i}" + (f", {path}" if path else ""))


def _compare(module: nn.Module, fresh: nn.Module, where: str) -> None:
    for name in vars(module).keys() - _STATE:
        value = vars(module)[name]
        if name.startswith("_") or not isinstance(value, int | float | str | tuple):
            continue
        if vars(fresh).get(name) != value:
            raise ArchitectureError(
                f"{name} is {value} and would be {vars(fresh).get(name)} after saving and loading: "
                "it depends on the layer's position",
                where=where,
                fix="this architecture is not supported",
            )
