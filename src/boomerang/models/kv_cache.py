"""What a model's KV cache holds for each token, read from its config.

Nothing here imports torch or transformers; what a config does not say clearly is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ArchitectureError
from .config import Config, num_layers, text_config

# The keys of one meaning in the configs of transformers, the usual one first.
HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")

# States that do not grow with the text, or caches of their own: counted wrongly by the rules here.
_OTHER_STATES = re.compile(r"^(?:mamba|ssm|conv_|linear_|rwkv|lru_|state_size|attn_layer_|gla_)")
_KNOWN_DIMENSIONS = frozenset({
    *GROUPS, *HEAD_DIM, "qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
    "num_key_value_heads_per_layer",
})  # fmt: skip
_DIMENSION = re.compile(r"head_dim|key_value_heads|kv_heads")

# The number of heads that keep keys and values: the most particular key first.
_KEPT_HEADS = ("num_key_value_heads_per_layer", *GROUPS, "kv_n_heads")


@dataclass(frozen=True)
class LayerCache:
    """The cache of one layer.

    Args:
        elements: Numbers kept for each token.
        window: The most tokens kept; None for all of them.
    """

    elements: int
    window: int | None


def layer_caches(config: Config) -> tuple[LayerCache, ...]:
    """The cache of each layer of a model.

    Keys and values of every head that keeps its own (grouped and multi-query attention keep fewer);
    for multi-head latent attention the compressed state and the rotary part (DeepSeek-V2, arXiv
    2405.04434, section 2.1), as transformers keeps them. Layers with a sliding window or chunks
    keep no more tokens than fit there.

    Args:
        config: A config with its layer types written out.

    Raises:
        ArchitectureError: The config does not say what is kept.
    """
    text = text_config(config)
    for key, value in text.items():
        if value not in (None, False, 0) and (
            _OTHER_STATES.match(key) or (_DIMENSION.search(key) and key not in _KNOWN_DIMENSIONS)
        ):
            raise ArchitectureError(
                f"the KV cache of a model with {key} is not known", where="config.json"
            )
    count = num_layers(config)
    return tuple(_layer_cache(text, index, count) for index in range(count))


def _layer_cache(text: Config, index: int, count: int) -> LayerCache:
    types = text.get("layer_types")
    # A list as long as the model has layers has an entry for each.
    view = layer_view(text, index, count)
    if not isinstance(types, list):
        return LayerCache(_elements(view), _window_of_all(view))
    kind = types[index] if index < len(types) else None
    return LayerCache(_elements(view), _window_of_type(view, kind))


def layer_view(text: Config, index: int, count: int) -> Config:
    """What the text part of a config says of one of its `count` layers."""
    view = {
        key: value[index] if isinstance(value, list) and len(value) == count else value
        for key, value in text.items()
    }
    overrides = text.get("per_layer_config")
    for key, value in overrides.items() if isinstance(overrides, dict) else ():
        # Padded with zeros to any length: compared as text, for it may be too long for a number.
        if key.isdecimal() and key.lstrip("0") == str(index).lstrip("0"):
            view |= value if isinstance(value, dict) else {}
    return view


def _elements(view: Config) -> int:
    if view.get("kv_lora_rank"):
        return _whole(view, "kv_lora_rank") + _whole(view, "qk_rope_head_dim")
    heads = _first(view, HEADS)
    stated = any(view.get(key) is not None for key in HEAD_DIM)
    size = _first(view, HEAD_DIM) if stated else _first(view, HIDDEN) // heads
    value = view.get("v_head_dim")
    both = size + (value if isinstance(value, int) and value > 0 else size)
    return _kv_heads(view, heads) * both


def _kv_heads(view: Config, heads: int) -> int:
    # Falcon's newer variants group heads whatever the older flag says.
    if view.get("multi_query") is True and not view.get("new_decoder_architecture"):
        return 1
    for part in (view, view.get("attn_config")):
        if isinstance(part, dict):
            for key in _KEPT_HEADS:
                if part.get(key) is not None:
                    return _whole(part, key)
    return heads


def _window_of_type(view: Config, kind: object) -> int | None:
    if kind in ("full_attention", "attention", "global_attention"):
        return None
    if kind == "sliding_attention":
        # ModernBERT's counts the tokens on both sides, of which a decoder sees one.
        if view.get("sliding_window") is None and view.get("local_attention") is not None:
            return max(1, _whole(view, "local_attention") // 2)
        return _whole(view, "sliding_window")
    if kind == "chunked_attention":
        return _whole(view, "attention_chunk_size")
    raise ArchitectureError(
        f"the KV cache of a layer of type {kind!r} is not known", where="layer_types"
    )


def _window_of_all(view: Config) -> int | None:
    # Without types a window is every layer's (Mistral) unless it is switched off (Qwen).
    if view.get("sliding_window") is None or view.get("use_sliding_window") is False:
        return None
    return _whole(view, "sliding_window")


def _first(text: Config, keys: tuple[str, ...]) -> int:
    for key in keys:
        if text.get(key) is not None:
            return _whole(text, key)
    raise ArchitectureError(f"there is none of {', '.join(keys)}", where="config.json")


def _whole(text: Config, key: str) -> int:
    value = text.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArchitectureError(f"is {value!r} and should be a positive whole number", where=key)
    return value
