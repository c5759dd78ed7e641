"""Tiny families on disk, for tests of what is made from files."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from boomerang import LayerMap
from boomerang.checkpoint.student_config import write_student_config
from tiny_models import tiny_pair


def save_pair(
    directory: Path, name: str, tied: bool | None = None, **kwargs: object
) -> tuple[Path, Path]:
    """Save a tiny teacher and student; their directories."""
    teacher, student, layers = tiny_pair(name, tied)
    return save_models(directory, teacher, student, layers, **kwargs)


def save_models(
    directory: Path,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    layers: LayerMap,
    **kwargs: object,
) -> tuple[Path, Path]:
    """Save a live teacher and student; keyword arguments go to `save_pretrained`."""
    paths = directory / "teacher", directory / "student"
    for path, model in zip(paths, (teacher, student), strict=True):
        model.save_pretrained(path, **kwargs)
    write_student_config(paths[1], layers)
    return paths
