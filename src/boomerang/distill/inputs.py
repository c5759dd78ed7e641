"""What a recipe names: the teacher, the student, the text; where they are and what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..architecture.config import text_config
from ..checkpoint.companions import find_companions
from ..checkpoint.directory import read_config
from ..checkpoint.hashing import content_hash
from ..checkpoint.resolve import resolve
from ..errors import DataError, RecipeError
from .recipe import Data, Recipe

_POSITIONS = ("max_position_embeddings", "n_positions")
_BLOCK = 1 << 20
# Beside a tokenizer, and no part of it.
_NO_TOKENIZER = ("generation_config.json", "hf_quant_config.json", "LICENSE", "NOTICE")


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run on this machine.

    Args:
        teacher: The teacher's directory.
        student: The initialised student's; None when it is cut from the teacher.
        data: The text.
    """

    teacher: Path
    student: Path | None
    data: Data

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
        return cls(teacher, student, recipe.data)

    def hashes(self) -> dict[str, str]:
        """Content hashes by role: `text`, `tokenizer`, `teacher` and, if there is one, `student`.

        Of a data set on the hub it is not the content that is hashed but what the recipe says.

        Raises:
            DataError: A file of the text cannot be read.
            CheckpointError: A model has no config or no weights.
        """
        # The text first: a mistake in it shows before large models are read.
        found = {
            "text": self.text_hash,
            "tokenizer": self.tokenizer_hash,
            "teacher": content_hash(self.teacher),
        }
        if self.student is not None:
            found["student"] = content_hash(self.student)
        return found

    @cached_property
    def text_hash(self) -> str:
        """A short hash of all files of the text, and of the names of its data sets on the hub.

        Raises:
            DataError: A file cannot be read.
        """
        digest = hashlib.sha256()
        for source in self.data.all_sources:
            if source.files is None:
                digest.update(f"{source.described}\n".encode())
            for path in map(Path, source.files or ()):
                try:
                    _update(digest, path)
                except OSError as error:
                    raise DataError(f"cannot be read ({error.strerror})", where=path) from None
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_hash(self) -> str:
        """A short hash of the files of the teacher's tokenizer, its chat templates included."""
        digest = hashlib.sha256()
        for name, path in find_companions(self.teacher).items():
            if not name.startswith(_NO_TOKENIZER):
                digest.update(f"{name}\n".encode())
                _update(digest, path)
        return digest.hexdigest()[:16]


def max_positions(config: dict[str, Any]) -> int | None:
    """The longest row a model takes by its `config.json`; None where there is no limit."""
    text = text_config(config)
    limits = [text[key] for key in _POSITIONS if isinstance(text.get(key), int)]
    return min((limit for limit in limits if limit > 0), default=None)


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        digest.update(f"{path.suffix} {path.stat().st_size}\n".encode())
        while block := file.read(_BLOCK):
            digest.update(block)
