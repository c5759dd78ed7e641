"""What a config says about each of its layers, in a form in which two configs can be compared.

Only what is certain: a key that another one overrides, or that only a class knows to read, is left
out.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from .config import LAYER_INDICES, PER_LAYER_LISTS, Config, num_layers, text_config

# Layers below the number differ from the others. The layers with windows are told by their types.
_THRESHOLDS = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")

# A class computes the layer types from these where they are not there, and else reads none of them.
_BEHIND_TYPES = frozenset({"full_attn_idxs", "attn_layer_indices"})

# Older versions' words for a type.
_SAME_TYPE = {"attention": "full_attention"}


def layer_settings(config: Config) -> dict[str, Any]:
    """What a config says about each of its layers, by key.

    Args:
        config: A `config.json`, with layer types where its class computes them.

    Returns:
        For lists with an entry per layer the list, for layer indices the layers there are among
        them, for thresholds how many layers are below. Keys without a value are left out.

    Raises:
        ConfigError: The config has no clear number of layers.
    """
    text, count = text_config(config), num_layers(config)
    settings: dict[str, Any] = {}
    has_types = isinstance(text.get("layer_types"), list)
    for key in PER_LAYER_LISTS & text.keys():
        value = text[key]
        if not isinstance(value, list) or (has_types and key in _BEHIND_TYPES):
            continue
        settings[key] = (
            _layers(value, count) if key in LAYER_INDICES else _entries(key, value, count)
        )
    for key in _THRESHOLDS:
        if _is_number(threshold := text.get(key)):
            settings[key] = max(0, min(threshold, count))
    end = text.get("moe_layer_end_index")
    if _is_number(end):
        settings["moe_layer_end_index"] = end if 0 <= end < count else count - 1
    return settings | _dense_layers(text, count)


def _dense_layers(text: Config, count: int) -> dict[str, Any]:
    """The layers without experts, where every n-th has them but the listed ones (Qwen MoE)."""
    listed, step = text.get("mlp_only_layers"), text.get("decoder_sparse_step", 1)
    if not isinstance(listed, list) or not _is_number(step) or step < 1:
        return {}
    dense = {*_layers(listed, count), *(i for i in range(count) if (i + 1) % step)}
    return {"mlp_only_layers": sorted(dense)}


def _layers(indices: list[Any], count: int) -> list[int]:
    return sorted({i for i in indices if _is_number(i) and 0 <= i < count})


def _entries(key: str, entries: list[Any], count: int) -> list[Any]:
    # The length of layer_types is checked where it is read; of others what is too much is not read.
    entries = entries if key == "layer_types" else entries[:count]
    return [_SAME_TYPE.get(each, each) if isinstance(each, str) else each for each in entries]


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int
