"""Tensors that do not come without one another: what every layer lacks.

A tensor that one layer lacks shows beside the other layers; one that all layers of teacher and
student lack does not. But there are no queries without keys, and what widens the state has
something beside it that narrows it again. The names, and what comes with what, are those of
transformers' causal language models, read from all of them; what no rule here speaks of may be
missing unseen.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set

from .config import Config
from .names import Layout

# Beside all of the first, one of the second must be. `x` is something with a weight of any format,
# `x.bias` its bias.
_Rule = tuple[frozenset[str], frozenset[str]]


def _rules(*pairs: tuple[str, str]) -> tuple[_Rule, ...]:
    return tuple((frozenset(a.split()), frozenset(b.split())) for a, b in pairs)


def _together(*words: str) -> tuple[_Rule, ...]:
    return _rules(*((a, b) for a in words for b in words if a != b))


def _biases(*words: str) -> tuple[_Rule, ...]:
    """All have a bias or none has."""
    return _rules(*((f"{a}.bias {b}", f"{b}.bias") for a in words for b in words if a != b))


_OUTPUT = "o_proj out_proj dense Wo"
_VALUES = _rules(("q_proj k_proj", "v_proj"))
_ATTENTION = (
    *_rules(
        ("k_proj v_proj", "q_proj"),
        ("q_proj v_proj", "k_proj"),
        ("q_proj k_proj", _OUTPUT),
        ("kv_b_proj", _OUTPUT),
        ("kv_b_proj", "q_proj q_a_proj"),
        ("kv_a_proj_with_mqa", "kv_a_layernorm"),
        ("q_a_proj", "q_a_layernorm q_a_norm"),
        ("q_a_proj", "q_b_proj q_gate_proj"),
        ("q_b_proj", "q_a_proj"),
        ("qkv_proj", _OUTPUT),
        ("query_key_value", _OUTPUT),
        ("Wqkv", _OUTPUT),
        ("q_norm k_proj", "k_norm"),
        ("k_norm q_proj", "q_norm"),
        # Keys alone may be without, but not in models with these names.
        ("q_proj.bias k_proj o_proj", "k_proj.bias"),
        ("q_proj.bias k_proj dense", "k_proj.bias"),
        ("q_proj.bias k_proj dense", "dense.bias"),
        ("k_proj.bias q_proj", "q_proj.bias"),
    ),
    *_together("kv_a_proj_with_mqa", "kv_b_proj"),
    *_rules(("c_attn", "c_proj")),
    *_together("q_layernorm", "k_layernorm"),
    *_together("query_layernorm", "key_layernorm"),
    *_biases("q_layernorm", "k_layernorm"),
    *_biases("q_proj", "v_proj"),
    *_biases("query_key_value", "dense"),
    *_biases("c_attn", "c_proj"),
)
_FEED_FORWARD = (
    *_rules(
        ("gate_proj", "up_proj"),
        ("up_proj", "down_proj"),
        ("down_proj", "up_proj gate_up_proj"),
        ("gate_up_proj", "down_proj"),
        ("experts", "gate router"),
    ),
    *_together("w1", "w2", "w3"),
    *_together("fc1", "fc2"),
    *_together("fc_in", "fc_out"),
    *_together("dense_h_to_4h", "dense_4h_to_h"),
    *_together("c_fc", "c_proj"),
    *_together("input_linear", "output_linear"),
    *_biases("gate_proj", "up_proj", "down_proj"),
    *_biases("fc1", "fc2"),
    *_biases("fc_in", "fc_out"),
    *_biases("dense_h_to_4h", "dense_4h_to_h"),
    *_biases("c_fc", "c_proj"),
)
_STATE_SPACE = _together("in_proj", "conv1d", "out_proj", "A_log", "D")
_LAYER = (
    *_rules(
        (
            "post_attention_layernorm",
            "input_layernorm q_input_layernorm post_feedforward_layernorm",
        ),
        ("pre_feedforward_layernorm", "input_layernorm"),
        ("post_feedforward_layernorm", "post_attention_layernorm feedforward_layer_norm"),
        ("post_feedforward_layernorm input_layernorm", "pre_feedforward_layernorm"),
        ("pre_feedforward_layernorm post_attention_layernorm", "post_feedforward_layernorm"),
        ("ln_2", "ln_1"),
        ("operator_norm", "ffn_norm"),
        ("ffn_norm feed_forward", "operator_norm"),
        ("pre_ff_layernorm", "input_layernorm"),
    ),
    *_together("attention_layernorm", "feedforward_layernorm"),
    *_together("norm_1", "norm_2"),
    *_together("fc1", "fc2"),
    *_biases("fc1", "fc2"),
)
# In every model that calls them so, these activations (and any that Gemma's own key names) are
# multiplied by a gate.
_GATE = _rules(("up_proj down_proj", "gate_proj linear_gate"))
# One norm before both parts of a layer is a layer norm in every model that has it, no RMS norm.
_SECOND_NORM = _rules(*(
    (
        f"input_layernorm self_attn {part}",
        "post_attention_layernorm pre_feedforward_layernorm pre_ff_layernorm pre_mlp_layernorm",
    )
    for part in ("mlp", "feed_forward", "block_sparse_moe")
))  # fmt: skip
_GATED_ACTIVATIONS = ("silu", "gelu_pytorch_tanh")

# Attention that has nothing but one of these and norms has lost what comes before it.
_ATTENTION_ENDS = frozenset({"c_proj", *_OUTPUT.split()})

_ATTENTION_PART = re.compile(
    r"self_attn|attn|attention|self_attention|attn\.attention|temporal_block"
)
_FEED_FORWARD_PART = re.compile(
    r"(?:mlp|feed_forward|ffn|mlp_block|block_sparse_moe|shared_mlp)"
    r"(?:\.experts(?:\.#)?|\.shared_\w+)?"
)
_STATE_SPACE_PART = re.compile(r"(?:mamba_decoder\.)?mamba|mixer")
_NORM = re.compile(r"norm|^ln(?:_|\d|$)")
_POSITIONS = frozenset({"embed_positions", "positions_embed", "wpe"})
# Where one of these is before a part of a layer, the state of the last layer is normed as well.
_NORMS_BEFORE = frozenset({
    "attention_layernorm", "input_layernorm", "norm_1", "operator_norm",
    "post_feedforward_layernorm",
})  # fmt: skip
_NEVER_BIASED = frozenset({"out_norm"})

Missing = tuple[str, str]


def missing_in_layers(layers: Iterable[Iterable[str]], text: Config) -> Missing | None:
    """What no layer has, though what it comes with is there.

    Args:
        layers: The names of the tensors of each layer.
        text: The part of the config that describes the language model.

    Returns:
        The name within a layer and that of what it comes with, or None.
    """
    layers = list(layers)
    # Parts are looked at in all layers together, for layers may share what they keep: keys, values,
    # a router. What a layer needs for itself is looked at in each.
    parts = [(part, words) for part, words in _parts(layers).items() if part]
    for part, words in (*parts, *(("", _parts([layer])[""]) for layer in layers)):
        found = _missing(words, _rules_of(part, words, text))
        if found is not None:
            path = f"{part}." if part else ""
            needed, present = ([path + word for word in sorted(words)] for words in found)
            return " or ".join(needed), " and ".join(present)
    return None


def missing_outside(layers: Iterable[Iterable[str]], layout: Layout) -> Missing | None:
    """The same for what is before and after the layers, by full names."""
    parts = _parts(layers)
    layer = parts[""]
    before, after = (_words(names) for names in (layout.embedding, layout.head))
    if all(word in _POSITIONS or _is_norm(word) for word in before):
        return "the embedding matrix", layout.embedding[0]
    if "c_attn" in parts["attn"] and "ln_f" in after and not _POSITIONS & before:
        return "a table of positions", layout.embedding[0]
    normed = layer & (_NORMS_BEFORE | ({"ln_1"} if "wpe" in before else set()))
    if normed and not any(_is_norm(word) for word in after):
        return "a final norm", min(normed)
    if not any(_is_norm(word) for words in parts.values() for word in words):
        return next((("a norm", word) for word in sorted(after) if _is_norm(word)), None)
    if any(_is_norm(word) for word in layer):
        norms = {word for word in layer | before | after - _NEVER_BIASED if _is_norm(word)}
        found = _missing(norms, _norm_rules(norms))
        if found is not None:
            return min(found[0]), min(found[1])
    return None


def _missing(words: Set[str], rules: Iterable[_Rule]) -> tuple[Set[str], Set[str]] | None:
    for present, needed in rules:
        if present <= words and not needed & words:
            return needed, present
    return None


def _rules_of(part: str, words: Set[str], text: Config) -> Iterator[_Rule]:
    if _ATTENTION_PART.fullmatch(part):
        yield from _ATTENTION
        if not text.get("attention_k_eq_v"):
            yield from _VALUES
        rest = {word for word in words if not (word.endswith(".bias") or _is_norm(word))}
        if len(rest) == 1 and rest <= _ATTENTION_ENDS:
            yield frozenset(rest), frozenset({"queries"})
    elif _FEED_FORWARD_PART.fullmatch(part):
        yield from _FEED_FORWARD
        if text.get("hidden_act") in _GATED_ACTIVATIONS or "hidden_activation" in text:
            yield from _GATE
    elif _STATE_SPACE_PART.fullmatch(part):
        yield from _STATE_SPACE
    elif not part:
        yield from _LAYER
        yield from _norm_rules({word for word in words if _is_norm(word)})
        if text.get("rms_norm_eps") is not None:
            yield from _SECOND_NORM


def _norm_rules(norms: Set[str]) -> Iterator[_Rule]:
    """Norms of one model have a bias or not, and none is a bias alone."""
    words = sorted({word.removesuffix(".bias") for word in norms})
    yield from _rules(*((f"{word}.bias", word) for word in words))
    yield from _biases(*words)


def _parts(layers: Iterable[Iterable[str]]) -> defaultdict[str, set[str]]:
    """For each part of a layer, with `#` for a number in its name, what is directly in it."""
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for name in {name for layer in layers for name in layer}:
        path = ["#" if word.isdecimal() else word for word in name.split(".")]
        if path[-1] == "bias":
            parts[".".join(path[:-2])].add(".".join(path[-2:]))
        elif not path[-1].endswith("bias"):
            for depth, word in enumerate(path):
                parts[".".join(path[:depth])].add(word)
    return parts


def _words(names: Iterable[str]) -> set[str]:
    """What is directly before or after the layers; `x.bias` for the bias of x."""
    paths = [name.split(".") for name in names]
    return {".".join(path[-2:]) if path[-1] == "bias" else path[-2] for path in paths}


def _is_norm(word: str) -> bool:
    return _NORM.search(word.removesuffix(".bias").lower()) is not None
