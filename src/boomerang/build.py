"""A member as a standard checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def build(teacher: str | Path, student: str | Path, out: str | Path, **choice: Any) -> Path:
    """Write one member of a family as a standard checkpoint."""
    raise NotImplementedError
