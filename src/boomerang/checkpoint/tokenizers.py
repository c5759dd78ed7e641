"""Whether a teacher and a student mean the same by a token's number."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArchitectureError, CheckpointError
from .jsonfile import IS_POINTER, LFS_POINTER, read_bounded
from .weights import inside

FILE_NAME = "tokenizer.json"

# The largest vocabularies of published models take some 35 MB.
_MAX_BYTES = 256 * 1024 * 1024


def check_tokenizers(teacher: Path, student: Path) -> None:
    """Compare tokens and merges, where the directories of both models have a `tokenizer.json`.

    Version, padding, truncation and post-processing may differ, and whether a token is in the
    vocabulary or among the added ones.

    Raises:
        ArchitectureError: A token or a merge differs.
        CheckpointError: A `tokenizer.json` cannot be read.
    """
    if not all((directory / FILE_NAME).exists() for directory in (teacher, student)):
        return
    ours, theirs = (read_bounded(inside(d, FILE_NAME), _MAX_BYTES) for d in (student, teacher))
    # Nearly always: the file was copied.
    if ours == theirs:
        return
    a, b = _read(ours, student), _read(theirs, teacher)
    difference = _type_difference(a, b) or _token_difference(a, b) or _merge_difference(a, b)
    if difference is not None:
        raise ArchitectureError(
            f"is another tokenizer than the teacher's: {difference}", where=student / FILE_NAME
        )


@dataclass(frozen=True)
class _Tokenizer:
    """What decides which numbers a text becomes; `kind` is None in some older files."""

    kind: object
    numbers: dict[str, Any]
    merges: list[list[str]]


def _read(data: bytes, directory: Path) -> _Tokenizer:
    if data.startswith(LFS_POINTER):
        raise CheckpointError(**IS_POINTER, where=directory / FILE_NAME)
    try:
        content = json.loads(data)
        model, added = content.get("model") or {}, content.get("added_tokens") or ()
        return _Tokenizer(
            model.get("type"),
            _vocabulary(model) | {str(token["content"]): token["id"] for token in added},
            [_pair(merge) for merge in model.get("merges") or ()],
        )
    # Whatever has another shape than a tokenizer's.
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise CheckpointError(
            "cannot be read as JSON of a tokenizer", where=directory / FILE_NAME
        ) from None


def _vocabulary(model: Mapping[str, Any]) -> dict[str, Any]:
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, list):
        # A unigram model has pairs of a token and its score, by number.
        return {str(pair[0]): i for i, pair in enumerate(vocabulary)}
    return dict(vocabulary)


def _pair(merge: str | Sequence[str]) -> list[str]:
    """A merge as a pair; older versions of the format join the two by a space."""
    return merge.split(" ") if isinstance(merge, str) else [str(part) for part in merge]


def _type_difference(ours: _Tokenizer, theirs: _Tokenizer) -> str | None:
    if ours.kind is None or theirs.kind is None or ours.kind == theirs.kind:
        return None
    return f"it is a {ours.kind!r:.40}, the teacher's a {theirs.kind!r:.40}"


def _token_difference(ours: _Tokenizer, theirs: _Tokenizer) -> str | None:
    a, b = ours.numbers, theirs.numbers
    unlike = (token for token in a.keys() | b.keys() if a.get(token) != b.get(token))
    # By number, so that the same two files always give the same message.
    first = min(unlike, key=lambda token: (_number(a, b, token), token), default=None)
    if first is None:
        return None
    return f"token {first!r:.80} is {_spell(a.get(first))} and {_spell(b.get(first))} there"


def _number(ours: Mapping[str, Any], theirs: Mapping[str, Any], token: str) -> int:
    found = (numbers.get(token) for numbers in (ours, theirs))
    return min((number for number in found if isinstance(number, int)), default=0)


def _spell(number: object) -> str:
    return "missing" if number is None else f"number {number}"


def _merge_difference(ours: _Tokenizer, theirs: _Tokenizer) -> str | None:
    a, b = ours.merges, theirs.merges
    if a == b:
        return None
    pairs = (i for i, (left, right) in enumerate(zip(a, b, strict=False)) if left != right)
    first = next(pairs, min(len(a), len(b)))
    spelled = (repr(" ".join(m[first])) if first < len(m) else "missing" for m in (a, b))
    return "merge {} is {:.80} and {:.80} there".format(first, *spelled)
