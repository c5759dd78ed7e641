"""Whether a teacher and a student on disk can be parts of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArchitectureError, CheckpointError, ConfigError, LayerMapError
from ..layers import LayerMap
from ..models.config import PERIODIC_RULES, Config, member_config, text_config
from ..models.expand import with_layer_types
from ..models.layer_settings import layer_settings
from ..models.names import translate
from ..models.quantization import QUANTIZATION_KEYS, in_order
from ..models.widths import HIDDEN
from .consistency import check_complete, check_numbers, check_widths
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


def check_agreement(teacher: Checkpoint, student: Checkpoint, layers: LayerMap) -> None:
    """Check names, shapes, dtypes and settings of two checkpoints against each other.

    Raises:
        LayerMapError: They do not have the numbers of layers that `layers` speaks of.
        ArchitectureError: They are of different architecture, width or vocabulary.
        CheckpointError: A checkpoint contradicts its own config.
        ConfigError: A config has a value of a kind that its key cannot have, or the teacher's is
            not to be carried over to the student's layers.
    """
    for checkpoint in (teacher, student):
        check_numbers(checkpoint)
        _check_matrices(checkpoint)
    _check_settings(teacher.config, student.config, student.directory, _SETTINGS)
    _check_depth(teacher, layers.num_layers, "teacher")
    _check_depth(student, layers.num_student_layers, "student")
    _check_layers(teacher, student, layers.kept)
    _check_pruned(teacher, layers)
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
    # Last: what only one of the two has wrong is told apart from what both have.
    for checkpoint in (teacher, student):
        check_complete(checkpoint)
        check_widths(checkpoint)


def _check_depth(checkpoint: Checkpoint, expected: int, who: str) -> None:
    if len(checkpoint.layout.layers) != expected:
        raise LayerMapError(
            f"the {who} has {len(checkpoint.layout.layers)} layers and the kept layers make it "
            f"{expected}",
            where=checkpoint.directory,
        )


def _check_pruned(teacher: Checkpoint, layers: LayerMap) -> None:
    """A pruned layer that is like no other one lacks a tensor, or has one that is not its own.

    Kept layers are compared with the student's; these have no twin there. A layer may well be the
    only one of its kind, but then the config tells it from the others.
    """
    shapes = [_shapes(teacher.layer(i)) for i in range(layers.num_layers)]
    for i in layers.pruned:
        if shapes.count(shapes[i]) > 1:
            continue
        # The config of a model of that layer alone: all the teacher's config says about it.
        kind = member_config(teacher.config, [i], tied=False)
        alike = [
            shapes[j]
            for j in range(layers.num_layers)
            if j != i and member_config(teacher.config, [j], tied=False) == kind
        ]
        if alike:
            usual = max(alike, key=alike.count)
            odd = sorted(set(shapes[i].items()) ^ set(usual.items()))
            raise CheckpointError(
                f"layer {i} has other tensors than every layer of its kind: {odd[0][0]!r:.200} is "
                "missing, too much, or of another shape",
                where=teacher.directory,
            )


def _shapes(layer: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in layer.items()}


def check_configs(teacher: Config, student: Config, where: Path) -> None:
    """Check what configs alone tell, of a student whose weights are not there.

    Args:
        teacher: The teacher's config.
        student: The student's.
        where: The student's directory.

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
