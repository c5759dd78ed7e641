"""Whether a teacher and a student on disk can be parts of one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import ArchitectureError, CheckpointError, ConfigError
from ..layers import LayerMap
from ..models.config import (
    LAYER_INDICES,
    PER_LAYER_LISTS,
    PERIODIC_RULES,
    Config,
    member_config,
    num_layers,
    text_config,
)
from ..models.kv_cache import HIDDEN
from ..models.layer_types import with_layer_types
from ..models.names import translate
from ..models.quantization import QUANTIZATION_KEYS, in_order
from .convert import FLOATS
from .directory import Checkpoint
from .header import Tensor

# Settings that change what a layer computes while every shape stays the same. A member takes them
# from the teacher's config, so a student trained with others would be run wrongly.
_SETTINGS = (
    "model_type", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim", "hidden_act",
    "hidden_activation", "activation_function", "rms_norm_eps", "layer_norm_eps",
    "layer_norm_epsilon", "rope_theta", "partial_rotary_factor", "full_attention",
    "sliding_attention", "num_experts_per_tok",
)  # fmt: skip
# Where tensors are there, their shapes tell.
_WIDTHS = ("vocab_size", *HIDDEN, "intermediate_size")

# Layers below the number differ from the others. The layers with windows are told by their types.
_THRESHOLDS = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")

# A class computes the layer types from these where they are not there, and else reads none of them.
_BEHIND_TYPES = frozenset({"full_attn_idxs", "attn_layer_indices"})

# Older words for a type; transformers 5 saves the newer ones.
_SAME_TYPE = {
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "mamba": "linear_attention",
}


def check_agreement(teacher: Checkpoint, student: Checkpoint, layers: LayerMap) -> None:
    """Check names, shapes, dtypes and settings of two checkpoints against each other.

    Widths that both configs state wrongly are not found: `verify` finds them by loading the result.

    Raises:
        ArchitectureError: They are of different architecture, width or vocabulary.
        CheckpointError: A layer differs from its siblings, or a matrix contradicts the config.
        ConfigError: The teacher's config cannot be carried over to the student's layers.
    """
    for checkpoint in (teacher, student):
        _check_matrices(checkpoint)
    _check_settings(teacher.config, student.config, student.directory, _SETTINGS)
    _check_layers(teacher, student, layers.kept)
    _check_siblings(teacher)
    exact = teacher.is_quantised
    for i, kept in enumerate(layers.kept):
        where = f"student layer {i} (teacher layer {kept})"
        _check_same(teacher.layer(kept), student.layer(i), where, exact)
    for part in ("embedding", "head"):
        theirs, ours = _outside(teacher, part, teacher), _outside(student, part, teacher)
        _check_same(theirs, ours, part, exact)
    pair = [checkpoint.output_matrix for checkpoint in (teacher, student)]
    output = [{} if matrix is None else {"output matrix": matrix} for matrix in pair]
    _check_same(output[0], output[1], "head", exact)


def _check_siblings(teacher: Checkpoint) -> None:
    """Refuse a layer whose tensors are like no other layer's, where the config does not say why.

    Layer 0 stays the first in every member, and some classes give it other tensors.
    """
    kinds = [_kind(teacher.layer(i)) for i in range(len(teacher.layout.layers))]
    count = Counter(kinds)
    for i, kind in enumerate(kinds):
        if i == 0 or count[kind] > 1:
            continue
        # The config of a model of that layer alone: all the teacher's config says about it.
        said = member_config(teacher.config, [i], tied=False)
        alike = [
            kinds[j]
            for j in range(1, len(kinds))
            if j != i and member_config(teacher.config, [j], tied=False) == said
        ]
        if alike:
            usual = max(alike, key=alike.count)
            name = min(kind ^ usual)[0]
            raise CheckpointError(
                f"layer {i} differs from every layer of its kind: tensor {name!r:.200} is missing, "
                "extra, or of another shape or dtype",
                where=teacher.directory,
                fix="the checkpoint may be damaged: download it again",
            )


def _kind(layer: Mapping[str, Tensor]) -> frozenset[tuple[str, str, tuple[int, ...]]]:
    """Names, dtypes and shapes of a layer; floating-point numbers are converted as needed."""
    return frozenset(
        (name, "float" if tensor.dtype in FLOATS else tensor.dtype, tensor.shape)
        for name, tensor in layer.items()
    )


def check_configs(teacher: Config, student: Config, where: Path) -> None:
    """Check the configs of two models without weights; `where` is the student's directory.

    Raises:
        ArchitectureError: The two are of different architecture, width or vocabulary.
    """
    _check_settings(teacher, student, where, (*_SETTINGS, *_WIDTHS))


def _check_settings(teacher: Config, student: Config, where: Path, keys: Sequence[str]) -> None:
    theirs, ours = (_settings(text_config(config)) for config in (teacher, student))
    for key in keys:
        a, b = theirs.get(key), ours.get(key)
        # Versions of transformers differ in what they leave out.
        if a is not None and b is not None and a != b:
            raise ArchitectureError(
                f"{key} is {b!r:.80} and the teacher's is {a!r:.80}", where=where
            )


def _settings(text: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what transformers 5 writes under `rope_parameters` where 4 wrote it."""
    rope = text.get("rope_parameters")
    return {**text, **(rope if isinstance(rope, dict) else {})}


def _check_layers(teacher: Checkpoint, student: Checkpoint, kept: Sequence[int]) -> None:
    """The student's config says of each layer what the teacher's says of the one it was cut from.

    A key that only one of the two has is let pass: older versions leave lists out.
    """
    member = member_config(teacher.config, kept, tied=False)
    theirs, ours = layer_settings(member), layer_settings(student.config)
    stated, rules = frozenset(ours), _rules(student.config)
    if rules and "layer_types" in theirs and "layer_types" not in ours:
        ours |= layer_settings(_with_types(student))
    theirs |= {key: _quantisation(member, key) for key in QUANTIZATION_KEYS}
    ours |= {key: _quantisation(student.config, key) for key in QUANTIZATION_KEYS}
    for key in sorted(theirs.keys() & ours.keys()):
        if theirs[key] != ours[key]:
            known = key in stated or key in QUANTIZATION_KEYS
            name = key if known else f"{key} (from {', '.join(rules)})"
            raise ArchitectureError(
                f"{name} is {ours[key]!r:.80} and the teacher's for these layers is "
                f"{theirs[key]!r:.80}",
                where=student.directory,
            )


def layer_settings(config: Config) -> dict[str, Any]:
    """What a config says about its layers, by key, without what does not concern a layer.

    A list with an entry per layer stays; of layer indices those that exist count; a threshold
    becomes the number of layers below it.
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


def _quantisation(config: Config, key: str) -> Any:
    # Older versions left it in the text's part of a nested config.
    return in_order(config.get(key) or text_config(config).get(key) or None)


def _rules(config: Config) -> list[str]:
    """The rules over layer indices that a config states."""
    text = text_config(config)
    threshold = ["max_window_layers"] if text.get("use_sliding_window") is True else []
    return [key for key in (*sorted(PERIODIC_RULES), *threshold) if text.get(key)]


def _with_types(student: Checkpoint) -> Config:
    """A student's config with the lists that its class computes, where it can be asked."""
    try:
        return with_layer_types(student.config, student.directory)
    except ConfigError:
        return student.config


def _check_matrices(checkpoint: Checkpoint) -> None:
    """The matrices at both ends are there and as large as the config says."""
    text = text_config(checkpoint.config)
    table, layout = checkpoint.token_table, checkpoint.layout
    has_output = layout.output_matrix is not None or layout.packed_output
    says_untied = False in (
        checkpoint.config.get("tie_word_embeddings"),
        text.get("tie_word_embeddings"),
    )
    if not has_output and (says_untied or table is None):
        raise CheckpointError(
            "has no output matrix, and its config does not tie it to the embedding",
            where=checkpoint.directory,
        )
    rows = text.get("vocab_size")
    if table is not None and isinstance(rows, int) and table.shape[:1] != (rows,):
        raise CheckpointError(
            f"tensor {table.name} is {_spell(table)} and the config's vocab_size is {rows}",
            where=checkpoint.directory,
        )


def _outside(checkpoint: Checkpoint, part: str, model: Checkpoint) -> dict[str, Tensor]:
    """The tensors of the embedding or the head, by the names they have in another checkpoint."""
    layout = checkpoint.layout
    return {
        translate(name, layout.stack, model.layout.stack): checkpoint.tensors[name]
        for name in getattr(layout, part)
        if name != layout.output_matrix
    }


def _check_same(
    teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], where: str, exact: bool
) -> None:
    for name in sorted(teacher.keys() | student.keys()):
        theirs, ours = teacher.get(name), student.get(name)
        fits = theirs is not None and ours is not None and theirs.shape == ours.shape
        if fits and theirs is not None and ours is not None:
            convertible = not exact and theirs.dtype in FLOATS and ours.dtype in FLOATS
            fits = convertible or theirs.dtype == ours.dtype
        if not fits:
            raise ArchitectureError(
                f"tensor {name!r:.200} is {_spell(ours)} in the student and {_spell(theirs)} "
                "in the teacher",
                where=where,
            )


def _spell(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{tensor.dtype} {'x'.join(map(str, tensor.shape)) or 'scalar'}"
