"""Recipes that come with the package, for others to start from."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ..settings import read_yaml

Preset = Literal["boomerang", "paper", "reference", "adapt"]
DEFAULT: Preset = "boomerang"

# Their value may depend on the order in which sizes grow: a number for each.
BY_ORDER = ("switch", "mirror")

_DIRECTORY = Path(__file__).with_name("presets")


def read_preset(name: Preset) -> dict[str, Any]:
    """The keys of a preset; `switch` and `mirror` may be dicts with a number for each order."""
    return copy.deepcopy(_read(name))


def with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys over those of the preset it names.

    Args:
        content: The recipe's own keys; they win, also inside `loss`, `data` and `training`.

    Returns:
        All keys, as a new dict. Those of `BY_ORDER` are left out where they depend on the order.
    """
    name = content.get("preset", DEFAULT)
    if name not in get_args(Preset):
        return content
    base = read_preset(name)
    for key in BY_ORDER:
        if isinstance(base[key], dict):
            del base[key]
    own = {key: value for key, value in content.items() if value is not None or key not in base}
    training = own.get("training")
    # A run is as long as one of the two says.
    if isinstance(training, dict) and "num_train_epochs" in training:
        del base["training"]["max_steps"]
    return merged(base, own)


def by_order(name: Preset, key: str, order: str) -> float:
    """What a preset says of a key of `BY_ORDER` for an order; 0 for one it does not speak of."""
    value = _read(name)[key]
    return float(value.get(order, 0.0) if isinstance(value, dict) else value)


@cache
def _read(name: str) -> dict[str, Any]:
    content = read_yaml(_DIRECTORY / f"{name}.yaml")
    base = content.pop("preset", None)
    return content if base is None else merged(_read(base), content)


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Keys over others, as a new dict: `own` wins, key by key also inside of dicts."""
    result = {**base, **own}
    for key in base.keys() & own.keys():
        if isinstance(base[key], dict) and isinstance(own[key], dict):
            result[key] = merged(base[key], own[key])
    return result
