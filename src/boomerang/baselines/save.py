"""Baselines as checkpoints on disk."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint.companions import copy_companions, find_companions
from ..checkpoint.jsonfile import read_json_object
from ..checkpoint.output import check_free, new_directory, write_json
from ..checkpoint.sources import Source
from ..errors import CheckpointError
from ..version import __version__
from .card import baseline_card
from .standalone import Standalone

RECORD = "baseline.json"


def save_model(model: Standalone, out: Path, teacher: Source) -> Path:
    """Write a model that was made from a teacher as a plain checkpoint, whole or not at all.

    A directory that holds the very same model is left as it is.

    Args:
        model: What to write.
        out: The directory that its own directory goes into: `TEACHER-METHOD-9L`.
        teacher: The teacher, whose tokenizer and licence it takes.

    Returns:
        The checkpoint's directory.

    Raises:
        OutputError: The directory holds something else, or cannot be written.
        CheckpointError: A file of the teacher cannot be read.
    """
    target = out / f"{teacher.name}-{model.series}-{model.num_layers}L"
    if _hash_of(target) == model.hash:
        return target
    check_free(target)
    companions = find_companions(teacher.directory, same_layers=False)
    with new_directory(target) as partial:
        model.build().save_pretrained(partial)
        record = {
            "method": model.series,
            "num_layers": model.num_layers,
            "hash": model.hash,
            "teacher": teacher.content_hash,
            **(model.about or {}),
            "tools": {"boomerang": __version__},
        }
        write_json(partial / RECORD, record)
        (partial / "README.md").write_text(baseline_card(model, teacher), encoding="utf-8")
        copy_companions(companions, partial)
    return target


def _hash_of(directory: Path) -> object:
    try:
        return read_json_object(directory / RECORD).get("hash")
    except CheckpointError:
        return None
