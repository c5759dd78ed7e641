"""What a recipe names: the teacher, the student, the text; where they are and what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..architecture.config import text_config
from ..checkpoint.directory import read_config
from ..checkpoint.hashing import content_hash
from ..checkpoint.resolve import resolve
from ..documents import read_documents
from ..errors import RecipeError
from .recipe import Recipe

_POSITIONS = ("max_position_embeddings", "n_positions")


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run on this machine.

    Args:
        teacher: The teacher's directory.
        student: The initialised student's; None when it is cut from the teacher.
        files: The text.
    """

    teacher: Path
    student: Path | None
    files: Sequence[str]

    @classmethod
    def find(cls, recipe: Recipe) -> Inputs:
        """Resolve what a recipe names, and see that its rows fit the teacher.

        Raises:
            RecipeError: `data.sequence_length` is more than the teacher has positions for.
            CheckpointError: A model cannot be found.
        """
        trust = recipe.model.trust_remote_code
        teacher = resolve(recipe.teacher, trust_remote_code=trust)
        length, limit = recipe.data.sequence_length, max_positions(read_config(teacher))
        if limit is not None and length > limit:
            raise RecipeError(
                f"is {length} and the teacher has {limit} positions",
                where="data.sequence_length",
                fix=f"give at most {limit}",
            )
        named = recipe.student
        student = None if named is None else resolve(named, trust_remote_code=trust)
        return cls(teacher, student, recipe.data.files)

    def hashes(self) -> dict[str, str]:
        """Content hashes by role: `text`, `teacher` and, where there is one, `student`.

        Raises:
            DataError: The text cannot be read.
            CheckpointError: A model has no config or no weights.
        """
        # The text first: a mistake in it shows before large models are read.
        found = {"text": _text_hash(self.files), "teacher": content_hash(self.teacher)}
        if self.student is not None:
            found["student"] = content_hash(self.student)
        return found


def max_positions(config: dict[str, Any]) -> int | None:
    """The longest row a model takes by its `config.json`; None where there is no limit."""
    text = text_config(config)
    limits = [text[key] for key in _POSITIONS if isinstance(text.get(key), int)]
    return min((limit for limit in limits if limit > 0), default=None)


def _text_hash(files: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for document in read_documents(files):
        content = document.encode()
        digest.update(f"{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:16]
