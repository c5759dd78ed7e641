"""Whether the tensors of a checkpoint have the widths that its config gives them.

Tensors are found by the names that transformers' causal language models have for them, read from
all of those models; one with another name is passed over.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import permutations
from math import prod

from .names import Layout, Shapes
from .widths import KEYS, Sizes

Widths = Mapping[str, Sizes]

# What a tensor should be: for each of its sizes the name of a width (`widths.read_widths`), "" for
# any. A matrix of torch's linear layer has a row for each output; where the matrices of all experts
# are one tensor, their number comes first.
_Sides = tuple[str, ...]

_ATTENTION: dict[str, _Sides] = {
    "q_proj": ("gated queries", "hidden"),
    **dict.fromkeys(("k_proj", "v_proj"), ("keys", "hidden")),
    **dict.fromkeys(("qkv_proj", "query_key_value", "c_attn"), ("fused", "hidden")),
    **dict.fromkeys(("o_proj", "out_proj", "dense", "Wo", "c_proj"), ("hidden", "queries")),
    **dict.fromkeys(("q_norm", "q_layernorm", "query_layernorm"), ("query norm",)),
    **dict.fromkeys(("k_norm", "k_layernorm", "key_layernorm"), ("key norm",)),
}
_LATENT_ATTENTION: dict[str, _Sides] = {
    "q_proj": ("latent queries", "hidden"),
    "q_a_proj": ("query latent", "hidden"),
    "q_a_layernorm": ("query latent",),
    "kv_a_proj_with_mqa": ("latent and rotary", "hidden"),
    "kv_a_layernorm": ("latent",),
    "kv_b_proj": ("latent pairs", "latent"),
    **dict.fromkeys(("o_proj", "dense"), ("hidden", "latent values")),
}
# With a state or heads of its own: only the state between layers is sure.
_OTHER_ATTENTION: dict[str, _Sides] = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "Wqkv"), ("", "hidden")),
    **dict.fromkeys(("o_proj", "dense"), ("hidden", "")),
}
_EXPERT: dict[str, _Sides] = {
    **dict.fromkeys(("gate_proj", "up_proj", "w1", "w3"), ("inner", "hidden")),
    **dict.fromkeys(("down_proj", "w2"), ("hidden", "inner")),
    "gate_up_proj": ("twice inner", "hidden"),
}
_FEED_FORWARD: dict[str, _Sides] = {
    **_EXPERT,
    **dict.fromkeys(("fc_in", "dense_h_to_4h", "c_fc"), ("plain inner", "hidden")),
    **dict.fromkeys(("fc_out", "dense_4h_to_h", "c_proj"), ("hidden", "plain inner")),
    "fc1": ("inner", "hidden"),
    "fc2": ("hidden", "inner or half"),
    "input_linear": ("twice inner", "hidden"),
    "output_linear": ("hidden", "inner"),
    **dict.fromkeys(("gate", "router"), ("experts", "hidden")),
}
_SHARED_EXPERT: dict[str, _Sides] = {
    **dict.fromkeys(("gate_proj", "up_proj"), ("shared inner", "hidden")),
    "down_proj": ("hidden", "shared inner"),
    "gate_up_proj": ("twice shared inner", "hidden"),
}
# Some models keep these with a row for each input, and no name tells which.
_EITHER_WAY = frozenset({"c_attn", "c_proj", "c_fc"})

_ATTENDS = re.compile(r"self_attn|attn|attention|self_attention|attn\.attention|temporal_block")
_OF_OTHER_ATTENTION = re.compile(r"conv|\.kv_proj|decay|Wqkv")
_FEEDS_FORWARD = r"(?:mlp|feed_forward|ffn|block_sparse_moe|shared_mlp)"
_ELSEWHERE = (
    (re.compile(rf"{_FEEDS_FORWARD}|"), _FEED_FORWARD),
    (re.compile(rf"{_FEEDS_FORWARD}\.experts\.[0-9]+"), _EXPERT),
    (re.compile(rf"{_FEEDS_FORWARD}\.shared_(?:experts?|mlp)"), _SHARED_EXPERT),
)
_OF_ALL_EXPERTS = re.compile(rf"({_FEEDS_FORWARD}\.experts)(?:\.([0-9]+)\..+)?")
_IS_NORM = re.compile(r"norm|^ln")

# A position table has a row for each position, in some models (`embed_positions`) more.
_OUTSIDE: dict[str, _Sides] = {
    **dict.fromkeys(("wpe", "positions_embed"), ("positions", "hidden")),
    **dict.fromkeys(("embed_positions", "position_embeddings"), ("", "hidden")),
}

Misfit = tuple[str, str]


def misfit_in_layer(layer: Shapes, widths: Widths) -> Misfit | None:
    """A tensor that is not as large as the config says.

    Args:
        layer: The shape of every floating-point tensor of a layer, by its name in it.
        widths: What the config gives the layer; what it leaves out and must say has no sizes.

    Returns:
        The tensor's name and what is wrong, or None.
    """
    if not any(name.startswith(("attn.", "self_attention.")) for name in layer):
        # No other model takes four times the hidden size where its config gives no width.
        said = {"plain inner": widths["inner"]} if "inner" in widths else {}
        widths = {**widths, **said}
    tables = {
        parent: _attention_table(parent, layer)
        for parent in {name.rpartition(".")[0].rpartition(".")[0] for name in layer}
        if _ATTENDS.fullmatch(parent)
    }
    for name, shape in layer.items():
        module, _, kind = name.rpartition(".")
        parent, _, word = module.rpartition(".")
        sides: _Sides | None = None
        if kind == "weight" and parent in tables:
            sides = tables[parent].get(word)
        elif kind == "weight":
            sides = _sides_elsewhere(parent, word)
        elif kind == "bias" and f"{module}.weight" in layer:
            weight = layer[f"{module}.weight"]
            if len(shape) == 1 and shape[0] not in weight:
                return name, f"is {_spell(shape)} beside a weight of {_spell(weight)}"
        elif kind == "sinks" and _ATTENDS.fullmatch(module):
            sides = ("heads",)
        elif _OF_ALL_EXPERTS.fullmatch(module):
            sides = _EXPERT.get(kind)
        either = word in _EITHER_WAY or word == "experts"
        if sides is not None and (what := _misfit(shape, sides, widths, either)):
            return name, what
    return _miscounted_experts(layer, widths)


def misfit_outside(layout: Layout, shapes: Shapes, widths: Widths) -> Misfit | None:
    """The same for what is before and after the layers.

    Args:
        layout: Where the tensors are.
        shapes: The shape of every floating-point tensor of the checkpoint.
        widths: What the config gives its layers, and says outside them.
    """
    for name in (*layout.embedding, *layout.head):
        module, _, kind = name.rpartition(".")
        word = module.rpartition(".")[2]
        sides: _Sides | None = None
        if name in (layout.token_table, layout.output_matrix):
            sides = ("vocabulary", "table")
        elif f"{module}.weight" == layout.output_matrix and kind == "bias":
            sides = ("vocabulary",)
        elif kind == "weight":
            sides = ("hidden",) if _IS_NORM.search(word.lower()) else _OUTSIDE.get(word)
        if name in shapes and sides and (what := _misfit(shapes[name], sides, widths)):
            return name, what
    return None


def _attention_table(parent: str, layer: Shapes) -> Mapping[str, _Sides]:
    if f"{parent}.kv_b_proj.weight" in layer:
        return _LATENT_ATTENTION
    inside = [name for name in layer if name.startswith(f"{parent}.")]
    other = any(_OF_OTHER_ATTENTION.search(name.removeprefix(parent)) for name in inside)
    return _OTHER_ATTENTION if other else _ATTENTION


def _sides_elsewhere(parent: str, word: str) -> _Sides | None:
    if not parent and _IS_NORM.search(word):
        return ("hidden",)
    return next((table.get(word) for place, table in _ELSEWHERE if place.fullmatch(parent)), None)


def _miscounted_experts(layer: Shapes, widths: Widths) -> Misfit | None:
    counts: dict[str, set[str]] = defaultdict(set)
    for name in layer:
        if (found := _OF_ALL_EXPERTS.fullmatch(name)) and found[2]:
            counts[found[1]].add(found[2])
    for part, numbers in counts.items():
        if what := _misfit((len(numbers),), ("experts",), widths):
            return part, what
    return None


def _misfit(
    shape: tuple[int, ...], sides: _Sides, widths: Widths, either: bool = False
) -> str | None:
    if len(shape) == 3 and len(sides) == 2:
        sides = ("experts", *sides)
    expected = [widths.get(side) for side in sides]
    for side, sizes in zip(sides, expected, strict=True):
        if sizes is not None and not sizes and side in KEYS:
            return f"is there and its config has no {KEYS[side]}"
    # A norm of all heads may have a row for each.
    found = (prod(shape),) if len(sides) == 1 else shape
    if len(found) == len(sides):
        for order in permutations(found) if either else (found,):
            if all(not s or n in s for n, s in zip(order, expected, strict=True)):
                return None
    wanted = " by ".join(_spell_sizes(sizes) for sizes in expected)
    return f"is {_spell(shape)}, and by its config {wanted}"


def _spell_sizes(sizes: Sizes | None) -> str:
    first = list(sizes.items())[:4] if sizes else []
    options = " or ".join(f"{size} ({said:.80})" for size, said in first)
    # Keys come from strangers: no line breaks or control characters in a message.
    return "".join(c if c.isprintable() else "?" for c in options) or "any"


def _spell(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
