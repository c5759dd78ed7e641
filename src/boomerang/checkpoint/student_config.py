"""`student_config.json`: which teacher layers a student was cut from.

The two keys are the reference's (`pruned_teacher_layers`, `copied_teacher_layers`); `order`, ours,
is there when an order of patching was measured for this student.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import CheckpointError, LayerMapError
from ..layers import LayerMap, Order
from .jsonfile import read_json_object
from .weights import inside

FILE_NAME = "student_config.json"


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
