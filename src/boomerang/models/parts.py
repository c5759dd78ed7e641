"""Where a live model keeps its embedding, its layers and its head, by structure.

The layer stack is the one `ModuleList` with as many modules as the config has layers, of the
classes that the model names as its layers. The config class's pipeline plan (`base_model_pp_plan`,
the order of execution) tells what runs before and after the stack. Without a plan, the order in
which the model registers its modules decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import nn

from ..errors import ArchitectureError
from . import config
from .config import num_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Parts:
    """The three parts of a model, as module paths from the model itself.

    Args:
        layers: The layer stack, such as `"model.layers"`.
        embedding: Every module with tensors of its own before the first layer.
        head: Every module with tensors of its own after the last layer (final norm, output matrix).
    """

    layers: str
    embedding: tuple[str, ...]
    head: tuple[str, ...]


def layer_stack(model: PreTrainedModel) -> nn.ModuleList:
    """The live layers of a model, in order.

    Raises:
        ArchitectureError: As `find_parts`.
    """
    stack = model.get_submodule(find_parts(model).layers)
    assert isinstance(stack, nn.ModuleList)
    return stack


def max_positions(model_config: PretrainedConfig) -> int | None:
    """The longest text a model takes, in tokens, by its config; None for no limit."""
    return config.max_positions(model_config.get_text_config().to_dict())


def find_parts(model: PreTrainedModel) -> Parts:
    """Tell a model's embedding, layers and head apart.

    Raises:
        ArchitectureError: There is not exactly one layer stack, or it is unknown whether a module
            with tensors runs before or after it.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _read_parts(model)
    return _KNOWN[model]


def set_parts(model: PreTrainedModel, parts: Parts) -> None:
    """Record the parts of a model for `find_parts`, which then does not read the model.

    Reading calls hooks of sharded modules, and a member may share such modules.
    """
    _KNOWN[model] = parts


# Reading the structure takes longer than making a member, and no live model changes its own.
_KNOWN: WeakKeyDictionary[nn.Module, Parts] = WeakKeyDictionary()


def _read_parts(model: PreTrainedModel) -> Parts:
    """`find_parts` without the record."""
    stack = _stack_path(model)
    before, after = _outside(model, stack)
    name = type(model).__name__
    if not before:
        raise ArchitectureError("has no embedding before its layers", where=name)
    if not after:
        raise ArchitectureError("has no final norm or head after its layers", where=name)
    _check_cover(model, stack, before + after)
    return Parts(stack, before, after)


def _stack_path(model: PreTrainedModel) -> str:
    """The path of the layer stack."""
    count = num_layers(model.config.to_dict())
    layer_classes = _layer_classes(model)
    found = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and all(type(layer).__name__ in layer_classes for layer in module)
    ]
    if len(found) != 1:
        raise ArchitectureError(
            f"has {len(found)} stacks of {count} layers ({', '.join(sorted(layer_classes))})",
            where=type(model).__name__,
            fix="only models with one stack of layers are supported",
        )
    return found[0]


def _layer_classes(model: PreTrainedModel) -> set[str]:
    """Class names of layers: classes that devices must not split, or that record hidden states."""
    names: set[str] = set()
    for module in model.modules():
        names.update(getattr(module, "_no_split_modules", None) or ())
        recorded = getattr(type(module), "_can_record_outputs", None) or {}
        specs = recorded.get("hidden_states")
        for spec in specs if isinstance(specs, list) else [specs]:
            names.add(getattr(getattr(spec, "target_class", spec), "__name__", ""))
    return names


def _outside(model: PreTrainedModel, stack: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The paths of the modules with tensors that run before the stack, and of those after it."""
    parent_path, _, stack_name = stack.rpartition(".")
    plan = list(getattr(model.get_submodule(parent_path).config, "base_model_pp_plan", None) or ())
    table, matrix = model.get_input_embeddings(), model.get_output_embeddings()
    before: list[str] = []
    after: list[str] = []
    unsure: list[str] = []
    passed = False
    for path, module in _leaves(model, stack):
        passed = passed or path == stack
        if path == stack or not _has_tensors(module):
            continue
        if any(part is table for part in module.modules()):
            before.append(path)
        elif any(part is matrix for part in module.modules()):
            after.append(path)
        elif stack_name in plan and path.startswith(f"{parent_path}."):
            name = path.removeprefix(f"{parent_path}.").partition(".")[0]
            if name not in plan:
                raise ArchitectureError(
                    f"module {path} is in no step of the model's pipeline plan",
                    where=type(model).__name__,
                    fix="this architecture is not supported",
                )
            (before if plan.index(name) < plan.index(stack_name) else after).append(path)
        elif passed:
            after.append(path)
        else:
            before.append(path)
            unsure.append(path)
    _check_final_norm(model, unsure, after)
    return tuple(before), tuple(after)


def _check_final_norm(model: PreTrainedModel, unsure: list[str], after: list[str]) -> None:
    """Refuse a norm registered before the layers if none is after them: it may run last (OPT)."""
    norms_before, norms_after = (
        [
            path
            for path in paths
            for module in model.get_submodule(path).modules()
            if "Norm" in type(module).__name__
        ]
        for paths in (unsure, after)
    )
    if norms_before and not norms_after:
        raise ArchitectureError(
            f"registers {norms_before[0]} before its layers and no norm after them, and no "
            "pipeline plan says when it runs",
            where=type(model).__name__,
            fix="this architecture is not supported",
        )


def _leaves(model: nn.Module, stack: str) -> list[tuple[str, nn.Module]]:
    """The stack and the smallest sub-trees beside the path to it, in the order of registration."""
    result: list[tuple[str, nn.Module]] = []

    def walk(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if stack.startswith(f"{child_path}."):
                walk(child, child_path)
            else:
                result.append((child_path, child))

    walk(model, "")
    return result


def _has_tensors(module: nn.Module) -> bool:
    """Whether a module saves tensors."""
    # Buffers that are not saved (rotary tables) follow from the config, not from training.
    return bool(module.state_dict(keep_vars=True))


def _check_cover(model: PreTrainedModel, stack: str, outside: tuple[str, ...]) -> None:
    """Refuse a tensor outside all parts, and an output matrix inside the layers."""
    prefixes = tuple(f"{path}." for path in (stack, *outside))
    for name in model.state_dict(keep_vars=True):
        if not name.startswith(prefixes):
            raise ArchitectureError(
                f"tensor {name} belongs to neither embedding, layers nor head",
                where=type(model).__name__,
                fix="this architecture is not supported",
            )
    final = model.get_output_embeddings()
    if final is not None and not any(
        final is module for path in outside for module in model.get_submodule(path).modules()
    ):
        raise ArchitectureError(
            "has its output matrix inside its layers", where=type(model).__name__
        )
