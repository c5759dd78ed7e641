"""`family.json`: which family a directory of results is of, and what its members need to run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
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
    """A checkpoint of the family."""

    id: str  # the hub id, or the directory as an absolute path
    revision: str | None  # the commit of a model from the hub
    hash: str  # its content hash, as in the rows

    @property
    def reference(self) -> str:
        """How to name it on the command line."""
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


class Built(_Model):
    """A member as `boomerang build` writes it, in the teacher's dtype."""

    member: tuple[int, ...]  # its patched layers
    parameters: int = Field(ge=1)  # numbers stored
    bytes: int = Field(ge=1)  # of the weights
    cache: tuple[Cache, ...] | None  # for one text; None where the architecture's is not known


class Provenance(_Model):
    """The content of `family.json`."""

    schema_version: int
    name: str  # the teacher's, without owner or path
    teacher: Source
    student: Source
    num_teacher_layers: int
    kept_layers: tuple[int, ...] = Field(min_length=1)
    keep_given: bool = False  # with `--keep`; the pair may not open without it
    order: str | tuple[int, ...]  # recorded with the student, else the paper's
    context: int = Field(ge=1)  # the text length, in tokens, that memory is stated for by default
    dtype: str | None  # that members are built in, by torch's name; None where not known
    built: tuple[Built, ...]  # the measured members
    recipe: str | None  # the student's `recipe.yaml`, if it has one
    tools: dict[str, str]  # versions by name
    measured: str  # when rows were added, in UTC, as ISO 8601


def write_provenance(out: str | Path, sources: Sources, rows: Sequence[Row]) -> None:
    """Write `family.json` beside the results.

    Without rows of the family itself, or with an architecture whose members cannot be built on
    disk, it writes nothing. `rows` are all that are current.
    """
    rows = [row for row in rows if row.series == FAMILY]
    if not rows:
        return
    try:
        found = _provenance(sources, rows)
    except BoomerangError:
        return
    write_text(Path(out) / PROVENANCE_FILE, found.model_dump_json(indent=2) + "\n")


def read_provenance(results: str | Path) -> Provenance | None:
    """The `family.json` of a directory of results, or beside a file; None if there is none.

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
        with suppress(PackageNotFoundError):
            tools[name] = version(name)
    return tools
