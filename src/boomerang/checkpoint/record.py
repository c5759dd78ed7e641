"""`boomerang.json`: what a member was made of, to build it again and to verify it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..layers import FIRST_TO_LAST, LAST_TO_FIRST, Order
from ..version import __version__
from .identity import Identity
from .jsonfile import read_json_object
from .member_files import MemberFiles

FILE_NAME = "boomerang.json"
SCHEMA_VERSION = 1


def record_content(
    files: MemberFiles,
    teacher: Identity,
    student: Identity,
    *,
    order: Order,
    order_source: str,
    dtype: str | None,
    max_shard_size: int,
) -> dict[str, Any]:
    """Returns the content of a member's `boomerang.json`.

    Args:
        files: The member.
        teacher: Who the teacher is.
        student: Who the student is.
        order: The order the member was chosen along; not recorded for a free set of blocks.
        order_source: `"given"`, `"recorded"` with the student, or `"paper"`.
        dtype: The dtype that the user asked for, or None.
        max_shard_size: In bytes.
    """
    member = files.member
    has_order = member.order is not None
    is_name = isinstance(order, str) and order in (LAST_TO_FIRST, FIRST_TO_LAST)
    along = order if is_name else list(member.layers.order(order))
    return {
        "schema_version": SCHEMA_VERSION,
        "teacher": asdict(teacher),
        "student": asdict(student),
        "num_teacher_layers": member.layers.num_layers,
        "kept_layers": list(member.layers.kept),
        "patched_layers": list(member.patched),
        "patch": member.patch,
        "order": along if has_order else None,
        "order_source": order_source if has_order else None,
        "num_layers": member.num_layers,
        "tied": files.tied,
        "dtype": files.dtype,
        "options": {"dtype": dtype, "max_shard_size": max_shard_size},
        "tools": {"boomerang": __version__},
    }


def has_record(directory: Path, content: Callable[[], dict[str, Any]]) -> bool:
    """Whether a directory holds a `boomerang.json` with the same content."""
    try:
        return read_json_object(directory / FILE_NAME) == content()
    except CheckpointError:
        return False


@dataclass(frozen=True)
class Record:
    """What `boomerang.json` says a member was made of.

    Args:
        teacher: The teacher, as `resolve` takes it: a directory, or a hub id with its revision.
        student: The same of the student.
        num_teacher_layers: N.
        kept: The teacher layers the student was cut from.
        patched: The patched student layers.
        fingerprints: Of teacher and student, as `identity.fingerprint` computes them.
    """

    teacher: str
    student: str
    num_teacher_layers: int
    kept: tuple[int, ...]
    patched: tuple[int, ...]
    fingerprints: tuple[str, str]


def read_record(directory: Path) -> Record:
    """Read a member's `boomerang.json`.

    Raises:
        CheckpointError: It is missing, of another schema version, or lacks what it should say.
    """
    path = directory / FILE_NAME
    if not path.exists():
        raise CheckpointError(
            f"has no {FILE_NAME}", where=directory, fix="name a directory made by `boomerang build`"
        )
    content = read_json_object(path)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"has schema version {content.get('schema_version')!r}, not {SCHEMA_VERSION}",
            where=path,
        )
    try:
        return Record(
            teacher=_reference(content["teacher"]),
            student=_reference(content["student"]),
            num_teacher_layers=content["num_teacher_layers"],
            kept=tuple(content["kept_layers"]),
            patched=tuple(content["patched_layers"]),
            fingerprints=(content["teacher"]["fingerprint"], content["student"]["fingerprint"]),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"has a missing or wrong entry ({error!r})", where=path) from None


def _reference(identity: dict[str, str | None]) -> str:
    name, revision = str(identity["id"]), identity["revision"]
    return name if revision is None else f"{name}@{revision}"
