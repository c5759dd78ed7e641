"""Layer numbers in what a config says about quantised weights.

Formats list modules that are kept as they are (`modules_to_not_convert`, `ignore`,
`ignored_layers`) or give some their own settings, by name: as strings in lists, and as the keys of
objects. A member's layers have other numbers, and a stale one means weights read in a format they
are not in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError

# Where configs keep it: transformers, early compressed-tensors, MLX.
QUANTIZATION_KEYS = ("quantization_config", "compression_config", "quantization")

# What ModelOpt says about the weights, beside the config or in its place.
QUANTIZATION_FILE = "hf_quant_config.json"

# The first number in a path of modules, and the path before it. No version has such a path.
_NUMBERED = re.compile(r"((?:[A-Za-z_]+[.])+)(0|[1-9][0-9]*)(?=[.]|$)")
_STACKS = frozenset({"block", "blocks", "h", "layer", "layers"})
_OTHER_TOWER = re.compile(r"vis(?:ion|ual)|audio")

# A pattern that stands for several names, and the number in it. Any digit stands for any layer.
_EXPRESSION = re.compile(r"[+-]?:|re:")
_ANY_DIGIT = re.compile(r"\[0-9\]|\\d")
_BARE_NUMBER = re.compile(r"(?<![A-Za-z_0-9])[0-9]")
_AFTER_STACK = re.compile(r"(?<![A-Za-z0-9])(?:blocks?|h|layers?)[^A-Za-z0-9]+[0-9]")


def renumbered(value: Any, layers: Sequence[int], total: int, key: str) -> Any:
    """A quantisation config whose names speak of another model's layers.

    Args:
        value: The config, or a part of it.
        layers: A teacher layer index for each layer of the new model, increasing.
        total: N, the number of the teacher's layers.
        key: The path of keys that leads there, for messages.

    Returns:
        The same with each name at its new position, without those of layers left out. A part that
        names no layer by its number is as it was.

    Raises:
        ConfigError: A pattern contains layer numbers, or a number in a name may not be a layer's;
            `where` names the key.
    """
    if list(layers) == list(range(total)):
        return value
    positions = {layer: position for position, layer in enumerate(layers)}
    return _renumbered(value, positions, key)


def names_layers(value: Any) -> bool:
    """Whether a quantisation config, or a part of it, names layers by their numbers."""
    if isinstance(value, Mapping):
        return any(map(names_layers, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple):
        return any(map(names_layers, value))
    return isinstance(value, str) and (_is_numbered(value) or _is_numbered_pattern(value))


def in_order(value: Any) -> Any:
    """The same with every list of names sorted, for comparison: their order means nothing."""
    if isinstance(value, Mapping):
        return {key: in_order(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        names = all(isinstance(inner, str) for inner in value)
        return sorted(value) if names else [in_order(inner) for inner in value]
    return value


def _renumbered(value: Any, positions: Mapping[int, int], key: str) -> Any:
    if isinstance(value, Mapping):
        entries = {}
        for name, inner in value.items():
            new = _name(name, positions, key) if isinstance(name, str) else name
            if new is not None:
                entries[new] = _renumbered(inner, positions, f"{key}.{name:.80}")
        return entries
    if isinstance(value, list | tuple):
        kept = [inner for inner in value if not _is_left_out(inner, positions, key)]
        return type(value)(_renumbered(inner, positions, key) for inner in kept)
    if isinstance(value, str):
        new = _name(value, positions, key)
        if new is None:
            raise ConfigError(f"names {value!r:.80}, whose layer is left out", where=key)
        return new
    return value


def _is_left_out(value: Any, positions: Mapping[int, int], key: str) -> bool:
    return isinstance(value, str) and _name(value, positions, key) is None


def _name(name: str, positions: Mapping[int, int], key: str) -> str | None:
    """A name at its new position; None where its layer is left out."""
    if _is_numbered_pattern(name):
        raise ConfigError(
            f"has the pattern {name!r:.80}, which contains layer numbers",
            where=key,
            fix="list the names of the modules instead",
        )
    if not _is_numbered(name):
        return name
    found = _NUMBERED.match(name)
    assert found is not None
    if found[1].split(".")[-2] not in _STACKS:
        raise ConfigError(f"has {name!r:.80}, whose number may be no layer's", where=key)
    # Absurd numbers are not read: Python refuses very long ones.
    position = positions.get(int(found[2])) if len(found[2]) < 7 else None
    return None if position is None else f"{found[1]}{position}{name[found.end() :]}"


def _is_numbered(name: str) -> bool:
    found = _NUMBERED.match(name)
    return found is not None and _OTHER_TOWER.search(found[1]) is None


def _is_numbered_pattern(name: str) -> bool:
    if _NUMBERED.match(name) or _OTHER_TOWER.search(name):
        return False
    rest = _ANY_DIGIT.sub("", name)
    numbers = _BARE_NUMBER if _EXPRESSION.match(name) else _AFTER_STACK
    return numbers.search(rest) is not None
