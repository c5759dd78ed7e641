"""New models over the tensors of old ones.

A **shell** of a module is a copy of its object tree (attributes, child modules) that holds the same
parameters and buffers. It has its own layer index, config and KV cache. So shells of one layer can
be in several models at once, at different positions, and take no memory for weights.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ..errors import ArchitectureError
from .config import member_config
from .parts import find_parts, layer_stack, set_parts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Attributes in which transformers' modules keep their position, as a key into the KV cache.
_POSITIONS = (
    "layer_idx",
    "layer_id",
    "layer_number",
    "layer_num",
    "block_id",
    "block_idx",
)

_EMPTY_MODULE = vars(nn.Module())
_OF_ANY_MODULE = frozenset(_EMPTY_MODULE)
# Observers (forward and backward hooks, the marker of transformers' output capture) stay behind.
_OBSERVERS = tuple(
    name
    for name in _OF_ANY_MODULE
    if "_hooks" in name and name.startswith(("_forward", "_backward"))
)
_OWN_CONTAINERS = tuple(
    name
    for name, value in _EMPTY_MODULE.items()
    if isinstance(value, dict | set) and name not in _OBSERVERS and name != "_modules"
)
_CAPTURE_MARKER = "_output_capturing_hooks_installed"


def assemble(
    skeleton: PreTrainedModel,
    layers: Sequence[tuple[PreTrainedModel, int]],
    teacher_layers: Sequence[int],
    *,
    embedding: PreTrainedModel,
    head: PreTrainedModel,
    tied: bool | None = None,
) -> PreTrainedModel:
    """A model of the skeleton's class made of other models' parts, sharing all their tensors.

    Args:
        skeleton: Gives the class, the config and modules outside all parts (rotary tables).
        layers: For each layer of the new model, the model it comes from and its index there;
            gradients flow to that model's own parameters.
        teacher_layers: For each of them, the layer of the skeleton whose entries in the config it
            gets, increasing.
        embedding: The model whose embedding is used.
        head: The model whose final norm and head are used.
        tied: Whether the new model's head and embedding are one matrix; by default `is_tied`.

    Returns:
        A new model in the skeleton's training mode. It shares tensors with the arguments, and no
        other mutable state.

    Raises:
        ConfigError: The config cannot be carried over to these layers.
        ArchitectureError: The models have no common structure.
    """
    parts = find_parts(skeleton)
    tied = is_tied(embedding, head) if tied is None else tied
    owners = {id(owner): owner for owner, _ in [*layers, (skeleton, 0), (embedding, 0), (head, 0)]}
    configs = _new_configs(skeleton, teacher_layers, tied, owners.values())
    model = _shell(skeleton, configs, leave_out=skeleton.get_submodule(parts.layers))
    for owner, paths in ((embedding, parts.embedding), (head, parts.head)):
        for path in paths:
            _set_module(model, path, _shell(_part(owner, path), configs))
    stacks = {key: layer_stack(owner) for key, owner in owners.items()}
    stack = nn.ModuleList(
        _shell(stacks[id(owner)][index], configs, position=position)
        for position, (owner, index) in enumerate(layers)
    )
    _set_module(model, parts.layers, stack)
    set_parts(model, parts)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config = copy.deepcopy(model.generation_config)
    _record_ties(model, tied)
    # The owners may be in different modes.
    return model.train(skeleton.training)


def is_tied(embedding: PreTrainedModel, head: PreTrainedModel) -> bool:
    """Whether one model's embedding and another's output matrix are bitwise equal.

    False for classes without tied weights.
    """
    matrix: Any = head.get_output_embeddings()
    table: Any = embedding.get_input_embeddings()
    if matrix is None or not head._tied_weights_keys:
        return False
    return same_tensor(matrix.weight, table.weight)


def same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are one, or have equal shape, dtype, device and bits (NaN is unequal)."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device or a.is_meta:
        return False
    # Different matrices usually differ in their first row.
    return torch.equal(a[:1], b[:1]) and torch.equal(a, b)


def check_layers_can_move(member: PreTrainedModel) -> None:
    """Refuse layers that depend on their index in a way that no config key shows.

    Examples are a constant computed from the depth, and two cache entries a layer. In memory a
    shell keeps such constants, so the member would change when it is saved and loaded. The member's
    layers are compared with those of a fresh model of its own config, which has no storage. Modules
    of another class than the fresh ones (quantised, wrapped by adapters) are passed over.

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
                _check_same_constants(module, twin, f"layer {i}" + (f", {path}" if path else ""))


def _check_same_constants(module: nn.Module, fresh: nn.Module, where: str) -> None:
    """Refuse a module with a number, text or tuple that a fresh one has otherwise."""
    for name, value in vars(module).items():
        is_state = name in _OF_ANY_MODULE or name == "gradient_checkpointing"
        if is_state or name.startswith("_") or not isinstance(value, int | float | str | tuple):
            continue
        if vars(fresh).get(name) != value:
            raise ArchitectureError(
                f"{name} is {value} and would be {vars(fresh).get(name)} after saving and loading: "
                "it depends on the layer's position",
                where=where,
                fix="this architecture is not supported",
            )


def _part(owner: PreTrainedModel, path: str) -> nn.Module:
    """The module of a model at a path."""
    try:
        return owner.get_submodule(path)
    except AttributeError:
        raise ArchitectureError(f"has no module {path}", where=type(owner).__name__) from None


def _new_configs(
    skeleton: PreTrainedModel,
    teacher_layers: Sequence[int],
    tied: bool,
    owners: Iterable[PreTrainedModel],
) -> dict[int, PretrainedConfig]:
    """The new config and its text part, by the `id` of each config that they replace."""
    new = copy.deepcopy(skeleton.config)
    before = skeleton.config.to_dict()
    _set_changed(new, before, member_config(before, teacher_layers, tied=tied))
    configs = {id(owner.config.get_text_config()): new.get_text_config() for owner in owners}
    configs.update({id(owner.config): new for owner in owners})
    return configs


def _set_changed(
    config: PretrainedConfig, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Set the keys of a config that differ, in its sub-configs too."""
    nested = {k: v for k, v in after.items() if isinstance(v, dict) and k in config.sub_configs}
    flat = {k: v for k, v in after.items() if k not in nested and before.get(k) != v}
    for key, value in flat.items():
        # Some classes only show the flag here, and keep the one that counts in a sub-config.
        setattr(config, key, value)
    for key, value in nested.items():
        _set_changed(getattr(config, key), before[key], value)


def _shell(
    module: ModuleT,
    configs: Mapping[int, PretrainedConfig],
    *,
    position: int | None = None,
    leave_out: nn.Module | None = None,
) -> ModuleT:
    """A shell of a module and its children, apart from `leave_out`, with new configs and index."""
    # Not the class's own __new__: that of sharded modules (FSDP2) calls the constructor.
    new = object.__new__(module.__class__)
    state = new.__dict__
    state.update(module.__dict__)
    for name in _OBSERVERS:
        state[name] = OrderedDict()
    for name in _OWN_CONTAINERS:
        state[name] = state[name].copy()
    state["_modules"] = {
        name: child
        if child is None or child is leave_out
        else _shell(child, configs, position=position, leave_out=leave_out)
        for name, child in module._modules.items()
    }
    state.pop(_CAPTURE_MARKER, None)
    for name in module.__dict__.keys() - _OF_ANY_MODULE:
        value = module.__dict__[name]
        if id(value) in configs:
            state[name] = configs[id(value)]
        elif isinstance(value, types.MethodType | functools.partial):
            state[name] = _rebound(value, module, new)
        elif position is not None and name in _POSITIONS and isinstance(value, int):
            state[name] = position
    return new


def _rebound(value: Any, old: nn.Module, new: nn.Module) -> Any:
    """A wrapper of a module's forward (accelerate's device hooks) that calls the new module."""
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, new) if value.__self__ is old else value
    if any(arg is old for arg in value.args):
        args = (new if arg is old else arg for arg in value.args)
        rebound = functools.partial(value.func, *args, **value.keywords)
        return functools.update_wrapper(rebound, value, assigned=())
    return value


def _set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the one at a path."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


def _record_ties(model: PreTrainedModel, tied: bool) -> None:
    """Tie embedding and output matrix, and set transformers' own record of tied weights."""
    if tied:
        matrix: Any = model.get_output_embeddings()
        table: Any = model.get_input_embeddings()
        matrix.weight = table.weight
    submodels: list[Any] = [m for m in model.modules() if hasattr(m, "all_tied_weights_keys")]
    for submodel in submodels:
        outermost = submodel is model
        keys = submodel.get_expanded_tied_weights_keys(all_submodels=outermost)
        submodel.all_tied_weights_keys = keys
