"""Values of a kind that a key cannot have: a class would refuse or misread them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..errors import ConfigError
from .config import FURTHER_TOKEN_LAYERS, MAX_LAYERS, Config, text_config
from .quantization import QUANTIZATION_KEYS


def check_values(config: Config, where: object) -> None:
    """Check the values of a config, and of the part of it that describes the language model.

    Args:
        config: A `config.json`, as read.
        where: The checkpoint, for messages.

    Raises:
        ConfigError: A value is of a kind that its key cannot have.
    """
    for part in (config, text_config(config)):
        if part.get("use_sliding_window") is False and part.get("sliding_window") == 0:
            # How transformers writes a window that is switched off.
            part = {**part, "sliding_window": None}
        for key, (fits, kind) in _KINDS.items():
            if key in part and not fits(part[key]):
                raise ConfigError(
                    f"its config's {key} is {part[key]!r:.80} and should be {kind}", where=where
                )


def _is_types(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(t, str) for t in value))


def _is_window(value: object) -> bool:
    return value is None or (type(value) is int and value > 0)


def _is_object(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_objects(value: object) -> bool:
    return value is None or (
        isinstance(value, Mapping) and all(isinstance(each, Mapping) for each in value.values())
    )


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_number(value: object) -> bool:
    if type(value) is int:
        return True
    return type(value) is float and math.isfinite(value)


def _is_number_or_null(value: object) -> bool:
    return value is None or _is_number(value)


def _is_few(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value <= MAX_LAYERS)


_FEW = (_is_few, f"a whole number up to {MAX_LAYERS}, or null")
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "layer_types": (_is_types, "a list of strings, or null"),
    "sliding_window": (_is_window, "a positive whole number, or null"),
    "tie_word_embeddings": (_is_flag, "true, false or null"),
    "rms_norm_eps": (_is_number, "a number"),
    "rope_theta": (_is_number_or_null, "a number, or null"),
    "per_layer_config": (_is_objects, "an object of objects, or null"),
    **dict.fromkeys(QUANTIZATION_KEYS, (_is_object, "an object, or null")),
    **dict.fromkeys(FURTHER_TOKEN_LAYERS, _FEW),
}
