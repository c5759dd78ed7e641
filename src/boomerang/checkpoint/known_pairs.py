"""Published pairs that do not say themselves which teacher layers the student keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_CACHED = "models--"


@dataclass(frozen=True)
class KnownPair:
    """A teacher and a student on the hub, and what is published about them.

    Args:
        teacher: The teacher's hub id.
        student: The student's hub id.
        kept: The teacher layers the student was initialised from.
        source: Where that is said.
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
    """The known pair that two checkpoints from the hub are, if they are one.

    Args:
        teacher: The teacher's directory, or a file in it.
        student: The student's directory.
    """
    names = _folded(hub_id(teacher)), _folded(hub_id(student))
    found = (
        pair for pair in KNOWN_PAIRS if (_folded(pair.teacher), _folded(pair.student)) == names
    )
    return next(found, None)


def hub_id(path: Path) -> str | None:
    """The hub id of what lies in the hub's cache; None for anything else.

    The cache keeps a model under `models--OWNER--NAME/snapshots/COMMIT`.
    """
    for folder in path.absolute().parents:
        if folder.name == "snapshots" and folder.parent.name.startswith(_CACHED):
            return folder.parent.name.removeprefix(_CACHED).replace("--", "/", 1)
    return None


def _folded(name: str | None) -> str | None:
    # The hub finds a model by its name in any case.
    return None if name is None else name.lower()
