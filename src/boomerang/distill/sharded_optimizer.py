"""The state of an optimizer over divided parameters, on disk for any number of processes.

Each process writes the parts it holds (torch.distributed.checkpoint); as many or as few as there
are later read the parts they need.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .sharding import divided_like

# Between the name of a parameter, which may have dots, and that of what the optimizer knows of it.
_SEPARATOR = "/"


def save_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Write the state of an optimizer; every process must call it, with the same directory.

    Args:
        module: What is optimised.
        optimizer: Its optimizer. Settings of its groups, such as the learning rate, are not
            written.
        directory: Made if it is not there.
    """
    state = {
        f"{name}{_SEPARATOR}{field}": value
        for name, parameter in module.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
    }
    save(state, checkpoint_id=directory)


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Give an optimizer the state that `save_optimizer` wrote, in as many processes as there are.

    A parameter that had no state, as nothing reached it yet, has none afterwards.
    """
    parameters = dict(module.named_parameters())
    saved = FileSystemReader(directory).read_metadata().state_dict_metadata
    flat = {key: _room(parameters[_split(key)[0]], saved[key]) for key in saved}
    with warnings.catch_warnings():
        # One process alone is nothing to warn of.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(flat, checkpoint_id=directory)
    by_parameter: dict[Tensor, dict[str, Any]] = {}
    for key, value in flat.items():
        name, field = _split(key)
        by_parameter.setdefault(parameters[name], {})[field] = value
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    state = {i: by_parameter[p] for i, p in enumerate(ordered) if p in by_parameter}
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def load_whole_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Give an optimizer over divided parameters the state of one over whole ones.

    Args:
        optimizer: An optimizer of the same parameters in the same order.
        file: What `torch.save` wrote of the other's `state_dict()`; every process reads it.
    """
    saved = torch.load(file, map_location="cpu", mmap=True, weights_only=True)["state"]
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {field: _part(ordered[number], value) for field, value in fields.items()}
        for number, fields in saved.items()
    }
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _part(parameter: Tensor, value: Any) -> Any:
    """What a process holds of a value that the optimizer knows of a parameter."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return divided_like(parameter, value.to(parameter.device))


def _room(parameter: Tensor, saved: Any) -> Any:
    """What a value is read into: divided as the parameter is, if it has its shape."""
    if not isinstance(saved, TensorStorageMetadata):
        return None
    dtype = saved.properties.dtype
    if saved.size == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=dtype)
    return torch.empty(saved.size, dtype=dtype)


def _split(key: str) -> tuple[str, str]:
    name, _, field = key.rpartition(_SEPARATOR)
    return name, field
