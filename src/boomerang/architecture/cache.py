"""What a model's KV cache holds for each token, read from its config.

Nothing here imports torch or transformers; what a config does not say clearly is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ArchitectureError
from .config import Config, num_layers, text_config

# States that do not grow with the text, or caches of their own: counted wrongly by the rules here.
_OTHER_STATES = re.compile(r"^(?:mamba|ssm|conv_|linear_|rwkv|lru_|state_size|attn_layer_|gla_)")
_KNOWN_DIMENSIONS = frozenset({
    "head_dim", "qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "num_kv_heads",
    "num_key_value_heads", "num_key_value_heads_per_layer",
})  # fmt: skip
_DIMENSION = re.compile(r"head_dim|key_value_heads|kv_heads")

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WIDTHS = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class LayerCache:
    """The cache of one layer.

    Args:
        elements: Numbers kept for each token.
        window: The most tokens kept; None for all of them.
    """

    elements: int
    window: int | None

    def tokens(self, context: int) -> int:
        """How many tokens are kept of a text of `context` tokens."""
        return context if self.window is None else min(context, self.window)


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
    elements = _elements(text, count)
    return tuple(LayerCache(elements[i], _window(text, i)) for i in range(count))


def _elements(text: Config, count: int) -> list[int]:
    latent = text.get("kv_lora_rank")
    if latent:
        return [_whole(text, "kv_lora_rank") + _whole(text, "qk_rope_head_dim")] * count
    heads = _first(text, _HEADS)
    key = text.get("head_dim")
    size = key if isinstance(key, int) and key > 0 else _first(text, _WIDTHS) // heads
    value = text.get("v_head_dim")
    both = size + (value if isinstance(value, int) and value > 0 else size)
    listed = text.get("num_key_value_heads_per_layer")
    if isinstance(listed, list) and len(listed) == count and all(type(n) is int for n in listed):
        return [n * both for n in listed]
    return [_kv_heads(text, heads) * both] * count


def _kv_heads(text: Config, heads: int) -> int:
    # Falcon's newer variants group heads whatever the older flag says.
    if text.get("multi_query") is True and not text.get("new_decoder_architecture"):
        return 1
    for part in (text, text.get("attn_config")):
        if isinstance(part, dict):
            for key in ("num_key_value_heads", "num_kv_heads", "kv_n_heads"):
                if isinstance(part.get(key), int):
                    return _whole(part, key)
    return heads


def _window(text: Config, layer: int) -> int | None:
    types = text.get("layer_types")
    if isinstance(types, list):
        kind = types[layer] if layer < len(types) else None
        if kind in ("full_attention", "attention", "global_attention"):
            return None
        if kind == "sliding_attention":
            return _whole(text, "sliding_window")
        if kind == "chunked_attention":
            return _whole(text, "attention_chunk_size")
        raise ArchitectureError(
            f"the KV cache of a layer of type {kind!r} is not known", where="layer_types"
        )
    # Without types a window is every layer's (Mistral) unless it is switched off (Qwen).
    if text.get("sliding_window") is None or text.get("use_sliding_window") is False:
        return None
    return _whole(text, "sliding_window")


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
