"""A student's files beside its weights.

`student_config.json` says which teacher layers a student was cut from. Two of its keys are the
reference's; we add `order` when an order of patching was measured for this student.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, LayerMapError
from ..layers import LayerMap, Order
from ..models.config import Config, member_config, set_dtype, text_config
from ..models.layer_types import with_layer_types
from .directory import read_config
from .extra_files import copy_extra_files, find_extra_files
from .jsonfile import read_json_object
from .output import write_json
from .weights import inside

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE_NAME = "student_config.json"


def write_student_files(
    directory: Path,
    layers: LayerMap,
    *,
    source: Path,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    order: Order | None = None,
) -> None:
    """Replace what `save_pretrained` wrote beside a student's weights by the teacher's own files.

    `config.json` is the teacher's, carried over to the kept layers; generation config, tokenizer,
    chat template and licence are copied byte by byte. transformers would respell them, and the
    student would no longer match its teacher.

    Args:
        directory: The student's directory.
        layers: The teacher layers that the student keeps.
        source: The teacher's directory.
        teacher: The live teacher, whose class knows the layer types that its config leaves out.
        student: The live student, whose dtype and tied matrices the config states.
        order: An order of patching that was measured for this student.

    Raises:
        CheckpointError: A file of the teacher cannot be read.
        ConfigError: The config cannot be carried over.
        OutputError: A file cannot be written.
    """
    config = read_config(source)
    if _is_saved_as(config, student):
        config = with_layer_types(config, source, live=teacher.config)
        tied = bool(getattr(student.config, "tie_word_embeddings", False))
        config = member_config(config, layers.kept, tied=tied)
        set_dtype(config, str(student.dtype).removeprefix("torch."))
        write_json(directory / "config.json", config)
    copy_extra_files(find_extra_files(source, same_layers=False), directory, replace=True)
    write_student_config(directory, layers, order)


def _is_saved_as(config: Config, student: PreTrainedModel) -> bool:
    """Whether a live student has the model type and quantisation that its teacher's config names.

    transformers loads only the text model of some multimodal ones, and can change quantisation.
    """
    live: Any = student.config
    quantised = any(part.get("quantization_config") for part in (config, text_config(config)))
    same_type = live.model_type == config.get("model_type")
    return same_type and quantised == bool(getattr(live, "quantization_config", None))


def write_student_config(directory: Path, layers: LayerMap, order: Order | None = None) -> None:
    """Write the plan a student was cut by into its directory."""
    content: dict[str, object] = {
        "pruned_teacher_layers": list(layers.pruned),
        "copied_teacher_layers": list(layers.kept),
    }
    if order is not None:
        content["order"] = list(layers.order(order))
    (directory / FILE_NAME).write_text(json.dumps(content) + "\n")


def read_student_config(directory: Path) -> tuple[LayerMap, tuple[int, ...] | None]:
    """The plan a student was cut by, and the order recorded with it, if any.

    Raises:
        CheckpointError: The file is missing, unreadable or contradicts itself.
    """
    path = directory / FILE_NAME
    if not path.exists():
        raise CheckpointError(
            f"has no {FILE_NAME}", where=directory, fix="name a directory made by `boomerang init`"
        )
    content = read_json_object(inside(directory, FILE_NAME))
    kept = _layer_list(content, "copied_teacher_layers", path)
    pruned = _layer_list(content, "pruned_teacher_layers", path)
    try:
        layers = LayerMap(kept, len(kept) + len(pruned))
        if sorted(pruned) != list(layers.pruned):
            raise LayerMapError(
                f"copied_teacher_layers {kept} and pruned_teacher_layers {pruned} do not partition "
                f"{layers.num_layers} layers"
            )
        order = content.get("order")
        return layers, None if order is None else layers.order(_layer_list(content, "order", path))
    except LayerMapError as error:
        raise CheckpointError(str(error), where=path) from None


def _layer_list(content: dict[str, object], key: str, path: Path) -> list[int]:
    value = content.get(key)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise CheckpointError(f"{key} is no list of layer indices", where=path)
    return value
