"""What a config says about the widths of one layer's tensors.

The keys are those of transformers' causal language models, read from the configs of all of them. A
width that a config gives in a way no rule here covers is unknown, and nothing is checked against
it. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from .config import Config

# The sizes a width may have, each with the words of the config that give it; none where the config
# leaves out what it must say.
Sizes = Mapping[int, str]

# The keys of one meaning, the usual one first.
HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "dff")
_EXPERT_INNER = ("moe_intermediate_size", "shared_expert_intermediate_size")
_POSITIONS = ("n_positions", "max_position_embeddings")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

# The usual key for a width, of those that a config must give where there are tensors of it.
KEYS = {
    "vocabulary": "vocab_size",
    **dict.fromkeys(("hidden", "table"), "hidden_size"),
    **dict.fromkeys(
        ("queries", "gated queries", "keys", "fused", "latent pairs"), "num_attention_heads"
    ),
    **dict.fromkeys(("inner", "twice inner", "inner or half", "plain inner"), "intermediate_size"),
    "experts": "num_experts",
    "positions": "n_positions",
}

# Every key for the width of a feed-forward part: which of them is whose, only the class knows.
_ANY_INNER = re.compile(r"intermediate|inner|ffn_(?:hidden|dim)|^dff$|feed_forward_size")
# Such a width is computed from more than one key.
_COMPUTED = re.compile(
    r"expansion_ratio|auto_adjust|multiple_size|proj_factor|mlp_ratio|dim_multiplier"
)
# Keys with "head" in them that do not speak of the heads of plain attention.
_OTHER_PARTS = re.compile(r"^(?:linear_|mamba_|n_mamba_|ssm_|index_|indexer_|lm_head)")

# How many further experts there are, not how wide they are.
_SHARED = re.compile(r"shared_experts?$|zero_expert_num")

# No tensor has that many rows, and what is computed from such numbers could not be printed.
_TOO_LARGE = 1 << 63


def layer_view(text: Config, index: int, count: int) -> Config:
    """What a config says of one layer: its entries in lists, its overrides.

    Args:
        text: The part of a config that describes the language model.
        index: The layer.
        count: The number of layers.
    """
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


def unfit_number(text: Config, *, own_code: bool) -> tuple[str, Any] | None:
    """A key with its value, where that is not the whole number it should be.

    A model may be without heads, experts or a feed-forward part, and then their numbers are zero.

    Args:
        text: The part of a config that describes the language model.
        own_code: Whether the model brings its code along: only then may there be a list of numbers
            of heads, one for each layer, as there may be for feed-forward parts.
    """
    for keys, least, by_layer in (
        (("vocab_size", *HIDDEN), 1, False),
        ((*HEADS, *GROUPS, *HEAD_DIM), 0, own_code),
        ((*_INNER, *_EXPERT_INNER, *EXPERTS), 0, True),
    ):
        for key in keys:
            value = text.get(key)
            entries = value if by_layer and isinstance(value, list) else [value]
            if not all(n is None or (_is_count(n) and n >= least) for n in entries):
                return key, value
    return None


def read_widths(view: Config) -> dict[str, Sizes]:
    """The widths that a config gives a layer, and those outside the layers.

    Args:
        view: What the config says of the layer, without an `unfit_number`.

    Returns:
        By name, without those that are unknown: `vocabulary`; `positions`; `hidden`, the state
        between layers; `table`, the columns of the embedding matrix; `heads` and `experts`, their
        numbers; `queries` and `keys`, all heads together; `gated queries`, with or without a gate
        beside them; `fused` queries, keys and values; `query norm` and `key norm`, over one head or
        all; `inner`, the inside of a feed-forward part; `plain inner`, the same where nothing said
        means four times hidden; `inner or half`, where it may stand for two gated halves; `shared
        inner`, of experts that every token passes; `twice` each; those of `_latent`.
    """
    hidden = _stated(view, HIDDEN)
    embedded = [key for key in view if "embed" in key and "position" not in key]
    return {
        "vocabulary": _stated(view, ["vocab_size"]),
        "hidden": hidden,
        "table": {**_stated(view, embedded), **hidden} if hidden else {},
        "positions": _stated(view, _POSITIONS),
        **_attention(view, hidden),
        **_latent(view),
        **_feed_forward(view, hidden),
        "experts": _experts(view),
    }


def _attention(view: Config, hidden: Sizes) -> dict[str, Sizes]:
    for key, value in view.items():
        is_plain = key in (*HEADS, *GROUPS, *HEAD_DIM) or _OTHER_PARTS.search(key)
        if "head" in key and not is_plain and type(value) in (int, list):
            return {}
    heads = _stated(view, HEADS)
    groups = _stated(view, GROUPS) or heads
    if view.get("multi_query") is True:
        groups = {**groups, 1: "one head by multi_query"}
    dims = _stated(view, HEAD_DIM) or {
        width // count: f"({said} / {of})"
        for width, said in hidden.items()
        for count, of in heads.items()
        if count
    }
    queries, keys = _products(heads, dims), _products(groups, dims)
    fused = {
        a + 2 * b: f"{said} and twice {of}" for a, said in queries.items() for b, of in keys.items()
    }
    # In linear attention, beside the plain kind in one model, every head has keys of its own.
    if view.get("layer_types") == "linear_attention":
        fused |= _times(3, queries)
    return {
        "heads": heads,
        "queries": queries,
        "gated queries": {**_times(2, queries), **queries},
        "keys": keys,
        "fused": fused,
        "query norm": {**queries, **dims},
        "key norm": {**keys, **dims},
    }


def _latent(view: Config) -> dict[str, Sizes]:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    `latent`, the compressed keys and values; `latent and rotary`, with the part of the keys that
    carries positions; `latent queries`, `latent pairs` (keys and values) and `latent values`, all
    heads together; `query latent`, the compressed queries.
    """
    said = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
    numbers = [number for name in said if _is_count(number := view.get(name))]
    if len(numbers) < len(said):
        return {}
    key, rotary, value, rank = numbers
    heads = _stated(view, HEADS)
    return {
        "latent": {rank: "kv_lora_rank"},
        "latent and rotary": {rank + rotary: "kv_lora_rank + qk_rope_head_dim"},
        "latent queries": _products(heads, {key + rotary: "(qk_nope_head_dim + qk_rope_head_dim)"}),
        "latent pairs": _products(heads, {key + value: "(qk_nope_head_dim + v_head_dim)"}),
        "latent values": _products(heads, {value: "v_head_dim"}),
        "query latent": _stated(view, ["q_lora_rank"]),
    }


def _feed_forward(view: Config, hidden: Sizes) -> dict[str, Sizes]:
    if any(_COMPUTED.search(key) and value for key, value in view.items()):
        return {}
    inner = _stated(view, _matching(view, _ANY_INNER))
    if view.get("use_double_wide_mlp") is True:
        inner = {**_times(2, inner), **inner}
    shared = {**_products(_stated(view, _matching(view, _SHARED)), inner), **inner}
    unsaid = all(view.get(key) is None for key in _INNER)
    return {
        "inner": inner,
        "twice inner": _times(2, inner),
        "inner or half": {**{n // 2: f"{said} / 2" for n, said in inner.items()}, **inner},
        "plain inner": {**_times(4, hidden), **inner} if unsaid else inner,
        "shared inner": shared,
        "twice shared inner": _times(2, shared),
    }


def _experts(view: Config) -> Sizes:
    experts = _stated(view, EXPERTS)
    # Some have a place among them for the shared ones, or for experts that do nothing.
    more = _stated(view, _matching(view, _SHARED))
    return {
        **{a + b: f"{said} + {of}" for a, said in experts.items() for b, of in more.items()},
        **experts,
    }


def _matching(view: Config, pattern: re.Pattern[str]) -> list[str]:
    return [key for key in view if pattern.search(key)]


def _stated(view: Config, keys: Iterable[str]) -> dict[int, str]:
    return {view[key]: key for key in keys if _is_count(view.get(key))}


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _TOO_LARGE


def _products(counts: Sizes, widths: Sizes) -> dict[int, str]:
    return {
        count * width: f"{said} x {of}"
        for count, said in counts.items()
        for width, of in widths.items()
    }


def _times(factor: int, sizes: Sizes) -> dict[int, str]:
    return {factor * size: f"{factor} x {said}" for size, said in sizes.items()}
