"""`family.json`: which family a directory of results is of, and what its members need to run.

Rows name teacher and student only by hash. The report also shows where the two are, and how much
memory a member needs for a text of some length.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ..checkpoint.jsonfile import read_bounded
from ..checkpoint.output import write_text
from ..checkpoint.sources import Sources
from ..errors import BoomerangError, CheckpointError, ResultsError
from ..sizing import Cache, default_context, member_sizes
from ..version import __version__
from .results import FAMILY, Row, checked, read_json

PROVENANCE_FILE = "family.json"
SCHEMA_VERSION = 1

_RECIPE_FILE = "recipe.yaml"
_RECIPE_BYTES = 64 * 1024
_TOOLS = ("torch", "transformers", "lm_eval")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Model):
    """A checkpoint of the family.

    Attributes:
        id: The hub id, or the directory as an absolute path.
        revision: The commit of a model from the hub, or None.
        hash: Its content hash, as in the rows.
    """

    id: str
    revision: str | None
    hash: str

    @property
    def reference(self) -> str:
        """How to name it on the command line."""
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


class Built(_Model):
    """A member as `boomerang build` writes it, in the teacher's dtype.

    Attributes:
        member: Its patched layers.
        parameters: Numbers stored.
        bytes: Bytes of the weights.
        cache: Its KV cache for one text; None where that of the architecture is not known.
    """

    member: tuple[int, ...]
    parameters: int = Field(ge=1)
    bytes: int = Field(ge=1)
    cache: tuple[Cache, ...] | None


class Provenance(_Model):
    """The content of `family.json`.

    Attributes:
        schema_version: `SCHEMA_VERSION`.
        name: The teacher's name, without owner or path.
        teacher: The teacher.
        student: The student.
        num_teacher_layers: N.
        kept_layers: The teacher layers the student was cut from.
        keep_given: Whether they were given with `--keep`; the pair may not open without it.
        order: The order of patching recorded with the student, else the paper's: a name or a list.
        context: The text length, in tokens, that memory is stated for by default.
        dtype: torch's name of the dtype that members are built in, or None where none is known.
        built: The measured members.
        recipe: The student's `recipe.yaml`, if it has one.
        tools: Versions by name.
        measured: When rows were added, in UTC, as ISO 8601.
    """

    schema_version: int
    name: str
    teacher: Source
    student: Source
    num_teacher_layers: int
    kept_layers: tuple[int, ...] = Field(min_length=1)
    keep_given: bool = False
    order: str | tuple[int, ...]
    context: int = Field(ge=1)
    dtype: str | None
    built: tuple[Built, ...]
    recipe: str | None
    tools: dict[str, str]
    measured: str


def write_provenance(out: str | Path, sources: Sources, rows: Sequence[Row]) -> None:
    """Write `family.json` beside the results.

    Without rows of the family itself, or with an architecture whose members cannot be built on
    disk, it writes nothing.

    Args:
        out: The directory of the results.
        sources: Teacher and student.
        rows: All rows that are current in the results.
    """
    rows = [row for row in rows if row.series == FAMILY]
    if not rows:
        return
    try:
        found = _provenance(sources, rows)
    except BoomerangError:
        return
    path = Path(out) / PROVENANCE_FILE
    write_text(path, found.model_dump_json(indent=2) + "\n")


def read_provenance(results: str | Path) -> Provenance | None:
    """The `family.json` of a directory of results, or None if it has none.

    Args:
        results: The directory, or a file in it.

    Raises:
        ResultsError: The file is damaged, or of another schema version.
    """
    results = Path(results)
    path = (results if results.is_dir() else results.parent) / PROVENANCE_FILE
    if not path.exists():
        return None
    found = read_json(path)
    if found.get("schema_version") != SCHEMA_VERSION:
        raise ResultsError(
            f"has schema version {found.get('schema_version')!r}, not {SCHEMA_VERSION}",
            where=path,
            fix="evaluate again with this version of boomerang",
        )
    return checked(Provenance, found, path)


def _provenance(sources: Sources, rows: Sequence[Row]) -> Provenance:
    teacher, student = sources.identities
    order, layers = sources.order, sources.layers
    measured = dict.fromkeys(row.member for row in rows)
    members = [layers.member(blocks=patched) for patched in measured]
    return Provenance(
        schema_version=SCHEMA_VERSION,
        name=sources.teacher.name,
        teacher=Source(id=teacher.id, revision=teacher.revision, hash=rows[-1].teacher),
        student=Source(id=student.id, revision=student.revision, hash=rows[-1].student),
        num_teacher_layers=layers.num_layers,
        kept_layers=layers.kept,
        keep_given=sources.keep_given,
        order=order if isinstance(order, str) else layers.order(order),
        context=default_context(sources.teacher.config),
        dtype=sources.files.of(layers.member(patch=0)).dtype,
        built=tuple(
            Built(
                member=size.member.patched,
                parameters=size.parameters,
                bytes=size.bytes,
                cache=size.cache,
            )
            for size in member_sizes(sources, members)
        ),
        recipe=_recipe(sources.directories[1]),
        tools=_versions(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _recipe(student: Path) -> str | None:
    try:
        return read_bounded(student / _RECIPE_FILE, _RECIPE_BYTES).decode()
    except (CheckpointError, UnicodeDecodeError):
        return None


def _versions() -> dict[str, str]:
    tools = {"boomerang": __version__, "python": platform.python_version()}
    for name in _TOOLS:
        try:
            tools[name] = version(name)
        except PackageNotFoundError:
            continue
    return tools
