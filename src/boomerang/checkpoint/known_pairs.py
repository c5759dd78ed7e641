"""Published pairs whose student does not say which teacher layers it keeps; add yours here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CACHED = "models--"


@dataclass(frozen=True)
class KnownPair:
    """A teacher and a student on the hub.

    Args:
        teacher: The teacher's hub id.
        student: The student's hub id.
        kept: The teacher layers the student was initialised from.
        source: The publication that says so.
    """

    teacher: str
    student: str
    kept: tuple[int, ...]
    source: str


KNOWN_PAIRS = (
    KnownPair(
        teacher="openai-community/gpt2",
        student="distilbert/distilgpt2",
        kept=(0, 2, 4, 7, 9, 11),
        source=(
            "huggingface/transformers, research project distillation, scripts/extract.py: the "
            "layers of a 12-layer teacher, BERT or GPT-2, that a student begins with"
        ),
    ),
)


def known_pair(teacher: Path, student: Path) -> KnownPair | None:
    """The known pair that lies in two directories, or None."""
    # The hub finds a model by its name in any case.
    names = [(hub_id(directory) or "").lower() for directory in (teacher, student)]
    found = (pair for pair in KNOWN_PAIRS if [pair.teacher.lower(), pair.student.lower()] == names)
    return next(found, None)


def hub_id(path: Path) -> str | None:
    """The hub id of a directory in the hub's cache (`models--OWNER--NAME/snapshots/COMMIT`)."""
    for folder in path.absolute().parents:
        if folder.name == "snapshots" and folder.parent.name.startswith(_CACHED):
            return folder.parent.name.removeprefix(_CACHED).replace("--", "/", 1)
    return None
