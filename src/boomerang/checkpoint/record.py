"""`boomerang.json`: what a member was made of, so that it can be made again and checked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import __version__
from .identity import Identity
from .output import write_json
from .plan import Plan

FILE_NAME = "boomerang.json"
SCHEMA_VERSION = 1


def write_record(
    directory: Path,
    plan: Plan,
    teacher: Identity,
    student: Identity,
    *,
    order: str | list[int] | None,
    dtype: str | None,
    max_shard_size: int,
) -> None:
    """Write `boomerang.json` into a member's directory.

    Args:
        directory: The member's.
        plan: The member.
        teacher: Who the teacher is.
        student: Who the student is.
        order: The order the member was chosen along, or None for a free set of blocks.
        dtype: The dtype that was asked for, or None for the teacher's.
        max_shard_size: In bytes.
    """
    member = plan.member
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "teacher": asdict(teacher),
        "student": asdict(student),
        "num_teacher_layers": member.layers.num_layers,
        "kept_layers": list(member.layers.kept),
        "patched_layers": list(member.patched),
        "patch": member.patch,
        "order": order,
        "num_layers": member.num_layers,
        "tied": plan.tied,
        "dtype": plan.dtype,
        "options": {"dtype": dtype, "max_shard_size": max_shard_size},
        "tools": {"boomerang": __version__},
    }
    write_json(directory / FILE_NAME, content)
