"""What a recipe names: the teacher, the student, the text; where they are and what is in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..checkpoint.extra_files import find_extra_files
from ..checkpoint.sources import Source, Sources
from ..errors import DataError, RecipeError
from ..models.config import max_positions, num_layers
from ..text.data_section import Data
from ..text.documents import check_file
from .recipe import Recipe

_BLOCK = 1 << 20
# Companion files that are no part of a tokenizer.
_NO_TOKENIZER = ("generation_config.json", "hf_quant_config.json", "LICENSE", "NOTICE")


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run on this machine.

    Args:
        sources: The teacher, and the initialised student unless it is cut from the teacher.
        data: The text.
    """

    sources: Sources
    data: Data

    @classmethod
    def find(cls, recipe: Recipe) -> Inputs:
        """Find what a `resolved` recipe names; rows, student and members must fit the teacher.

        Raises:
            RecipeError: `data.sequence_length` is more than the teacher has positions for, or the
                student has no such members.
            BoomerangError: As `Sources.pair`.
        """
        trust = recipe.model.trust_remote_code
        teacher = Source.open(recipe.teacher, trust_remote_code=trust)
        length, limit = recipe.data.sequence_length, max_positions(teacher.config)
        if limit is not None and length > limit:
            raise RecipeError(
                f"is {length} and the teacher has {limit} positions",
                where="data.sequence_length",
                fix=f"give at most {limit}",
            )
        given = None if recipe.keep is None else recipe.layers(num_layers(teacher.config))
        if recipe.student is None:
            assert given is not None
            return cls(Sources.uncut(teacher, given), recipe.data)
        student = Source.open(recipe.student, trust_remote_code=trust)
        sources = Sources.pair(teacher, student, keep=None if given is None else given.kept)
        recipe.members(sources.layers)
        return cls(sources, recipe.data)

    def hashes(self) -> dict[str, str]:
        """Content hashes by role: `text`, `tokenizer`, `teacher` and, if there is one, `student`.

        For a data set on the hub, what the recipe says is hashed, not the content.

        Raises:
            DataError: A file of the text cannot be read.
            CheckpointError: A model has no config or no weights.
        """
        # The text first: a mistake in it shows before large models are read.
        found = {
            "text": self.text_hash,
            "tokenizer": self.tokenizer_hash,
            "teacher": self.sources.teacher.content_hash,
        }
        if self.sources.student is not None:
            found["student"] = self.sources.student.content_hash
        return found

    @cached_property
    def text_hash(self) -> str:
        """A short hash of all files of the text, and of the names of its data sets on the hub."""
        digest = hashlib.sha256()
        for source in self.data.all_sources:
            if source.files is None:
                digest.update(f"{source.described}\n".encode())
            for path in map(Path, source.files or ()):
                check_file(path)
                try:
                    _update(digest, path)
                except OSError as error:
                    raise DataError(f"cannot be read ({error.strerror})", where=path) from None
        return digest.hexdigest()[:16]

    @cached_property
    def tokenizer_hash(self) -> str:
        """A short hash of the files of the teacher's tokenizer, its chat templates included."""
        digest = hashlib.sha256()
        for name, path in find_extra_files(self.sources.teacher.directory).items():
            if not name.startswith(_NO_TOKENIZER):
                digest.update(f"{name}\n".encode())
                _update(digest, path)
        return digest.hexdigest()[:16]


def _update(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        digest.update(f"{path.suffix} {path.stat().st_size}\n".encode())
        while block := file.read(_BLOCK):
            digest.update(block)
