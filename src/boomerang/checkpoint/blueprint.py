"""Checkpoints whose weights are not there, for counting.

A teacher from its config alone, a student from its kept layers alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ArchitectureError, LayerMapError
from ..layers import LayerMap
from ..models.config import Config, member_config, num_layers, text_config
from ..models.layer_types import with_layer_types
from ..models.names import Layout
from .agreement import check_configs
from .directory import Checkpoint, read_config, says_quantised
from .header import DTYPE_BITS, Tensor
from .jsonfile import read_json_object
from .member_plan import DTYPES, Pair
from .pairing import Pairing, pair_up
from .resolve import Reference, resolve
from .weights import has_all_weights, has_weights, inside


def open_for_counting(
    teacher: str | Path, student: str | Path, keep: Iterable[int] | None = None
) -> tuple[Pair, Pairing]:
    """A teacher and a student, whether or not their weights are there, and how they go together.

    No weights of hub models are downloaded.

    Args:
        teacher: A directory, a hub id, a `config.json` or a directory with one.
        student: A directory or a hub id.
        keep: The teacher layers it keeps, where it has no `student_config.json`.

    Raises:
        CheckpointError, LayerMapError, ArchitectureError, ConfigError: As `FamilyOnDisk.open`.
    """
    opened = open_teacher(teacher)
    directory = resolve(student, weights=False)
    pairing = pair_up(opened.directory, directory, keep)
    # A teacher without weights is known by one file, its config.
    if opened.directory.is_dir() and _has_weights(student, directory):
        pair = Pair(opened, Checkpoint.open(directory), pairing.layers)
    else:
        pair = imagined_pair(opened, pairing.layers)
        _check_config(directory, opened, pairing.layers)
    return pair, pairing


def _check_config(student: Path, teacher: Checkpoint, layers: LayerMap) -> None:
    """Compare a student without weights with its plan and its teacher, if it has a config."""
    if not (student / "config.json").exists():
        return
    config = read_config(student)
    check_configs(teacher.config, config, student)
    depth = num_layers(config)
    if depth != layers.num_student_layers:
        raise LayerMapError(
            f"has {depth} layers and the kept layers make it {layers.num_student_layers}",
            where=student,
        )


def open_teacher(teacher: str | Path) -> Checkpoint:
    """A teacher from its headers, or from its config where there are no weights.

    Args:
        teacher: A directory, a hub id, a `config.json` or a directory with one.

    Raises:
        CheckpointError, ArchitectureError, ConfigError: It cannot be read or is not supported.
    """
    if os.path.isfile(teacher):
        return teacher_from_config(Path(teacher))
    directory = resolve(teacher, weights=False)
    if _has_weights(teacher, directory):
        return Checkpoint.open(directory, expand=True)
    return teacher_from_config(inside(directory, "config.json"))


def _has_weights(reference: str | Path, directory: Path) -> bool:
    # A directory that lacks a file is broken; a partial download counts as none.
    is_local = Path(Reference.parse(reference).name).is_dir()
    return has_weights(directory) if is_local else has_all_weights(directory)


def teacher_from_config(path: Path) -> Checkpoint:
    """The tensors that a model of this config would have; transformers is imported for it.

    The model is made on the meta device: nothing is computed, and no memory is taken for weights.

    Args:
        path: A `config.json`.

    Raises:
        CheckpointError: It cannot be read.
        ArchitectureError, ConfigError: The architecture is not supported, or the model quantised.
    """
    config = with_layer_types(read_json_object(path), path)
    if says_quantised(config, path.parent):
        raise ArchitectureError(
            "is of a quantised model, whose size it does not tell",
            where=path,
            fix="download the model and name its directory",
        )
    model = _on_meta(config, path)
    tensors, layout = _describe(model, config, path)
    return Checkpoint(path, config, tensors, layout)


def student_of(teacher: Checkpoint, layers: LayerMap) -> Checkpoint:
    """A student that was cut from a teacher and trained: no weight is the teacher's any more.

    Raises:
        LayerMapError: `layers` is for another number of layers.
        ConfigError: The config cannot be carried over.
    """
    if num_layers(teacher.config) != layers.num_layers:
        raise LayerMapError(
            f"the kept layers are of {layers.num_layers} layers and the teacher has "
            f"{num_layers(teacher.config)}"
        )
    layout = teacher.layout
    renamed = {name: name for name in (*layout.embedding, *layout.head)}
    for i, kept in enumerate(layers.kept):
        names = layout.layers[kept]
        renamed |= {f"{layout.stack}{kept}.{rest}": f"{layout.stack}{i}.{rest}" for rest in names}
    tensors = {
        new: replace(teacher.tensors[old], name=new, file=Path("student"))
        for old, new in renamed.items()
    }
    tied = layout.output_matrix is None and not layout.packed_output
    return Checkpoint(
        Path("student"),
        member_config(teacher.config, layers.kept, tied=tied),
        tensors,
        replace(layout, layers=tuple(layout.layers[kept] for kept in layers.kept)),
    )


def imagined_pair(teacher: Checkpoint, layers: LayerMap) -> Pair:
    """A teacher and a student still to be trained.

    Raises:
        LayerMapError, ConfigError, ArchitectureError: As `student_of` and `Pair`.
    """
    return Pair(teacher, student_of(teacher, layers), layers, equal=lambda a, b: False)


def _on_meta(config: Config, path: Path) -> Any:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ArchitectureError(f"model_type {kind!r} is not known to transformers", where=path)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                CONFIG_MAPPING[kind].from_dict(config), trust_remote_code=False
            )
    except (ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArchitectureError(
            f"transformers makes no causal model of it ({reason})", where=path
        ) from None


def _describe(model: Any, config: Config, path: Path) -> tuple[dict[str, Tensor], Layout]:
    from ..models.modules import find_parts

    text = text_config(config)
    keys = [part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype")]
    dtype = next((DTYPES[key] for key in keys if key in DTYPES), "F32")
    # A tied matrix is one tensor under two names; the first is the embedding's.
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    tensors: dict[str, Tensor] = {}
    position = 0
    for name in names.values():
        shape, kind = tuple(state[name].shape), dtype if state[name].is_floating_point() else "I64"
        length = state[name].numel() * DTYPE_BITS[kind] // 8
        tensors[name] = Tensor(name, path, kind, shape, position, length)
        position += length
    parts = find_parts(model)
    stack = f"{parts.layers}."

    def under(paths: tuple[str, ...]) -> tuple[str, ...]:
        prefixes = tuple(f"{path}." for path in paths)
        return tuple(sorted(name for name in tensors if name.startswith(prefixes)))

    def name_of(module: Any) -> str | None:
        return None if module is None else names.get(id(module.weight))

    table, output = name_of(model.get_input_embeddings()), name_of(model.get_output_embeddings())
    return tensors, Layout(
        stack=stack,
        layers=tuple(
            tuple(sorted(n.removeprefix(f"{stack}{i}.") for n in under((f"{stack}{i}",))))
            for i in range(num_layers(config))
        ),
        embedding=under(parts.embedding),
        head=under(parts.head),
        token_table=table,
        output_matrix=None if output == table else output,
        packed_output=False,
    )
