"""Finds embedding, layers and head by the names of the tensors in a checkpoint.

The layer stack is the numbered group with exactly as many numbers as the config has layers. What
lies outside is sorted by the word that follows the path it shares with the stack. A word that is in
no list here is refused: a tensor taken from the wrong model gives a wrong model that loads
silently.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ArchitectureError

Shapes = Mapping[str, tuple[int, ...]]

# The words of transformers' causal language models for what runs before and after the layers, read
# from the live structure of all of them. LFM2's embedding_norm, despite its name, is its final
# norm.
_EMBEDDING = frozenset({
    "embed_in", "embed_positions", "embed_tokens", "embeddings", "positions_embed", "tokens_embed",
    "word_embeddings", "word_embeddings_layernorm", "wpe", "wte",
})  # fmt: skip
_HEAD = frozenset({
    "decoder", "embed_out", "embedding_norm", "final_layer_norm", "final_layernorm", "final_norm",
    "head", "layer_norm", "layernorm", "lm_head", "ln_f", "ln_out", "norm", "norm_f", "out_norm",
    "output_projection",
})  # fmt: skip

# What a head may have inside it: directly its tensors, or a transform before the output matrix.
_HEAD_TRANSFORMS = frozenset({"", "dense", "layer_norm", "norm"})

# The matrices that may be tied, relative to where the stack is.
_TOKEN_TABLES = tuple(f"{name}.weight" for name in (
    "embed_tokens", "embed_in", "wte", "word_embeddings", "tokens_embed", "embeddings",
    "embeddings.word_embeddings", "embeddings.tok_embeddings",
))  # fmt: skip
_TABLES = frozenset({
    "embed_in", "embed_positions", "embed_tokens", "embeddings", "position_embeddings",
    "positions_embed", "tok_embeddings", "token_type_embeddings", "tokens_embed",
    "word_embeddings", "wpe", "wte",
})  # fmt: skip
_OUTPUT_MATRICES = ("lm_head", "embed_out", "output_projection", "head", "decoder")

# A checkpoint with tied matrices does not name its output matrix. It is `lm_head.weight` for every
# causal language model of transformers but these (the classes' `_tied_weights_keys`; for gpt_neox
# the name in its files, which loading translates).
_OUTPUT_BY_TYPE = {
    "biogpt": "output_projection.weight",
    "gpt_neox": "embed_out.weight",
    "gpt_neox_japanese": "embed_out.weight",
    "modernbert-decoder": "decoder.weight",
    "rwkv": "head.weight",
}

# Saved by older versions, recomputed from the config by newer ones: no parameters.
_BUFFER = re.compile(
    r"(?:^|\.)(?:rotary_emb\.inv_freq|attn\.causal_mask|att(?:n|ention)\.masked_bias)$"
)
_CAUSAL_MASK = re.compile(r"(?:^|\.)att(?:n|ention)\.bias$")
# Layers that predict further tokens; transformers does not read them, and they fit no member.
_MULTI_TOKEN = re.compile(r"^(?:model\.)?mtp(?:_\w+)?\.")

_NUMBERED = re.compile(r"(|.*?\.)(0|[1-9][0-9]{0,5})\.(.+)", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """Where a checkpoint keeps what, by tensor name.

    Args:
        stack: What comes before a layer's number, such as `"model.layers."`.
        layers: For each layer, its tensors' names after the number and the dot, sorted.
        embedding: Full names of the tensors before the layers, sorted.
        head: Full names of the tensors after the layers, sorted.
        token_table: The full name of the embedding matrix, the one that may be tied.
        output_matrix: The full name of the output matrix, or None where the file has none.
        packed_output: Whether the output matrix is there in another form than one plain matrix, as
            quantised checkpoints may have it.
    """

    stack: str
    layers: tuple[tuple[str, ...], ...]
    embedding: tuple[str, ...]
    head: tuple[str, ...]
    token_table: str | None
    output_matrix: str | None
    packed_output: bool


def read_layout(shapes: Shapes, num_layers: int, *, extra_layers: int = 0, where: object) -> Layout:
    """Tell embedding, layers and head apart.

    Args:
        shapes: The shape of every tensor of the checkpoint, by name. Buffers that follow from the
            config and layers for multi-token prediction are passed over.
        num_layers: N, from the config.
        extra_layers: How many layers for multi-token prediction the config announces after the N.
        where: The checkpoint, for messages.

    Raises:
        ArchitectureError: There is not exactly one group of N layers, or a tensor belongs to no
            known part.
    """
    names = [name for name, shape in shapes.items() if not is_dropped(name, shape)]
    groups: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            groups[found[1]][int(found[2])].append(found[3])
    stack = _stack(groups, num_layers, extra_layers, where)
    inside = {f"{stack}{i}.{rest}" for i, layer in groups[stack].items() for rest in layer}
    outside = [name for name in names if name not in inside]
    before = sorted(name for name in outside if _word(name, stack) in _EMBEDDING)
    after = sorted(name for name in outside if _is_head(_relative(name, stack)))
    for name in sorted(set(outside) - set(before) - set(after)):
        raise ArchitectureError(
            f"tensor {name!r:.200} belongs to no known part of a language model",
            where=where,
            fix="this architecture is not supported",
        )
    if not before or not after:
        part = "final norm or head after" if before else "embedding before"
        raise ArchitectureError(f"has no {part} its layers", where=where)
    tables = [name for name in before if _relative(name, stack) in _TOKEN_TABLES]
    outputs = [
        name
        for name in after
        if name.rpartition(".")[0] in _OUTPUT_MATRICES and not name.endswith(".bias")
    ]
    matrix = next((name for name in outputs if name.endswith(".weight")), None)
    return Layout(
        stack=stack,
        layers=tuple(tuple(sorted(groups[stack][i])) for i in range(num_layers)),
        embedding=tuple(before),
        head=tuple(after),
        token_table=tables[0] if len(tables) == 1 else None,
        output_matrix=matrix,
        packed_output=bool(outputs) and matrix is None,
    )


def output_matrix_name(model_type: str) -> str:
    """What an untied output matrix is called in checkpoints of this type of model."""
    return _OUTPUT_BY_TYPE.get(model_type, "lm_head.weight")


def is_matrix(name: str) -> bool:
    """Whether a tensor has one row for each token or position: an embedding or output matrix."""
    word = name.removesuffix(".weight").rpartition(".")[2]
    return word in _TABLES or name.removesuffix(".weight") in _OUTPUT_MATRICES


def translate(name: str, stack: str, other: str) -> str:
    """A name outside the layers, in the convention of a checkpoint with another stack path.

    The two conventions differ by the base model's prefix: `h.0.` in one, `transformer.h.0.` in the
    other. Names outside the base model (`lm_head.weight`) carry no prefix in either.

    Raises:
        ArchitectureError: The stack paths differ by more than a prefix.
    """
    if stack == other:
        return name
    if stack.endswith(f".{other}"):
        return name.removeprefix(stack.removesuffix(other))
    if other.endswith(f".{stack}"):
        outside = name.removesuffix(".weight").removesuffix(".bias") in _OUTPUT_MATRICES
        return name if outside else other.removesuffix(stack) + name
    raise ArchitectureError(
        f"one checkpoint keeps its layers under {stack!r} and the other under {other!r}",
        fix="teacher and student must be of one architecture",
    )


def is_dropped(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a buffer that follows from the config, or predicts further tokens."""
    # A causal mask is square and four-dimensional; a bias of the same name would be a vector.
    is_mask = _CAUSAL_MASK.search(name) is not None and len(shape) == 4
    return is_mask or bool(_BUFFER.search(name) or _MULTI_TOKEN.match(name))


def _stack(
    groups: Mapping[str, Mapping[int, list[str]]], count: int, extra: int, where: object
) -> str:
    # The config's numbers may be absurd: nothing of their size is made.
    found = [
        prefix
        for prefix, members in groups.items()
        if len(members) in (count, count + extra) and max(members) == len(members) - 1
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ArchitectureError(
            f"has several groups of {count} layers: {', '.join(sorted(found))}",
            where=where,
            fix="only models with one stack of layers are supported",
        )
    largest = max(groups, key=lambda prefix: len(groups[prefix]), default=None)
    if largest is None:
        raise ArchitectureError("has no numbered layers among its tensors", where=where)
    members = groups[largest]
    missing = next((i for i in range(count) if i not in members), None)
    detail = f"layer {count} is one too many" if missing is None else f"layer {missing} is missing"
    raise ArchitectureError(
        f"has no group of the {count} layers its config states: in {largest}* {detail}",
        where=where,
    )


def _is_head(name: str) -> bool:
    """Whether a name (relative to the stack) is a final norm's or output matrix's."""
    word, _, rest = name.partition(".")
    below = rest.partition(".")[0] if "." in rest else ""
    return word in _HEAD and below in _HEAD_TRANSFORMS


def _relative(name: str, stack: str) -> str:
    """A name without the path it shares with the stack."""
    left, right = name.split("."), stack.split(".")
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    return ".".join(left[shared:])


def _word(name: str, stack: str) -> str:
    return _relative(name, stack).partition(".")[0]
