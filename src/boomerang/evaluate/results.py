"""`results.jsonl`: one row for each measured value; and how JSON lines are read and written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from ..checkpoint.jsonfile import read_json_object
from ..errors import CheckpointError, ResultsError
from ..settings import regular

RESULTS_FILE = "results.jsonl"

FAMILY = "family"
"""The series of the family itself; every other series is a baseline's."""

PRETRAINED = "pretrained"
"""The series of models trained elsewhere; they are not sizes of one model."""

PERPLEXITY = "perplexity"
BITS_PER_BYTE = "bits_per_byte"
DIFFERENCE = "perplexity_difference"
"""Perplexity minus that of the member one size below; its standard error is paired."""

_Model = TypeVar("_Model", bound=BaseModel)


class Value(NamedTuple):
    """A measured value: those fields of a `Row` that do not name the model."""

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int


class Row(BaseModel):
    """One measured value of one member."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    member: tuple[int, ...] = Field(strict=False)  # patched student layers, a list in JSON
    patch: int = Field(ge=0)  # the number of patched blocks of more than one layer
    order: str | None  # along which the member was chosen; None for a free set of blocks
    num_layers: int = Field(ge=1, lt=1 << 63)
    parameters: int = Field(ge=1, lt=1 << 63)  # a tied head is counted once
    bytes: int = Field(ge=1, lt=1 << 63)  # of the parameters, in the dtype measured in
    task: str  # or text
    metric: str  # `perplexity`, `bits_per_byte`, or the task's own
    value: float
    stderr: float | None = Field(ge=0)  # in the unit of the value; None where there is none
    items: int = Field(ge=1)  # windows of text, or documents, behind the value
    teacher: str  # content hash
    student: str  # content hash
    series: str  # `family`, or the name of a baseline or of a study's variant
    seed: int | None = None  # in a study, of the distillation; elsewhere None, and not written

    @model_serializer(mode="wrap")
    def _without_missing_seed(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        if content["seed"] is None:
            del content["seed"]
        return content

    @property
    def key(self) -> tuple[object, ...]:
        """What was measured of whom; two rows with one key differ only in their figures."""
        who = (self.teacher, self.student, self.series, self.seed)
        return (*who, self.order, self.member, *self.measure)

    @property
    def measure(self) -> tuple[str, str]:
        """Task and metric."""
        return (self.task, self.metric)


def read_results(path: str | Path) -> list[Row]:
    """The rows of a results file, or of the one in a directory, in the order of writing.

    Raises:
        ResultsError: The file cannot be read, or a line is not a row; names file, line and field.
    """
    path = Path(path)
    return read_models(path / RESULTS_FILE if path.is_dir() else path, Row)


def append_results(path: str | Path, rows: Iterable[Row]) -> None:
    """Add rows to a results file, which is made if it does not exist."""
    append_lines(path, (row.model_dump() for row in rows))


def current(rows: Sequence[Row]) -> list[Row]:
    """The rows that still hold: the last of each key, and only those of a series' last student.

    A file also keeps what was measured of earlier students. Each seed of a series has a student of
    its own. In a series without patched layers and orders every model stands alone: there the last
    model of each size (layers and parameters) holds. The order of rows is that of writing.
    """
    families = {(row.teacher, row.series) for row in rows if row.member or row.order is not None}

    def of_one_student(row: Row) -> tuple[object, ...]:
        series = (row.teacher, row.series)
        size = () if series in families else (row.num_layers, row.parameters)
        return (*series, row.seed, *size)

    students = {of_one_student(row): row.student for row in rows}
    last = {row.key: row for row in rows}
    return [row for row in last.values() if row.student == students[of_one_student(row)]]


def read_models(path: Path, kind: type[_Model]) -> list[_Model]:
    """The lines of a file of JSON lines as models; raises as `read_lines` and `checked`."""
    return [checked(kind, value, f"{path} line {n}") for n, value in read_lines(path)]


def checked(kind: type[_Model], value: object, where: object) -> _Model:
    """A model made from parsed JSON; raises `ResultsError` that names a field at fault."""
    if not isinstance(value, dict):
        raise ResultsError("is not a JSON object", where=where)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        kinds = {
            "missing": "is missing",
            "extra_forbidden": "is not known",
            "finite_number": "is not a finite number",
        }
        problem = kinds.get(first["type"], f"is {first['input']!r}: {first['msg'].lower()}")
        raise ResultsError(f'field "{field}" {problem}', where=where) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises `ResultsError` where it cannot be read."""
    try:
        return read_json_object(path)
    except CheckpointError as error:
        raise ResultsError(error.what, where=path) from None


def read_lines(path: str | Path) -> list[tuple[int, Any]]:
    """The lines of a file of JSON lines, as pairs (line number from 1, parsed value).

    Leaves out empty lines, and the torn last line of a killed run.

    Raises:
        ResultsError: The file cannot be read, or a line other than a torn last one is not JSON.
    """
    try:
        lines = regular(Path(path)).read_bytes().split(b"\n")
    except OSError as error:
        raise ResultsError(f"cannot be read ({error.strerror})", where=path) from None
    if not _is_json(lines[-1]):
        lines.pop()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                found.append((number, json.loads(line)))
        except ValueError as error:
            raise ResultsError(f"is not JSON ({error})", where=f"{path} line {number}") from None
    return found


def append_lines(path: str | Path, values: Iterable[Any]) -> None:
    """Add one line for each JSON value to a file, which is made if it does not exist.

    The torn last line of a killed run is removed. The lines are on the disk when this returns.
    Raises `ValueError` for a NaN or an infinity.
    """
    lines = [json.dumps(value, allow_nan=False).encode() + b"\n" for value in values]
    if not lines:
        return
    with Path(path).open("a+b") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 1))
        if file.read(1) not in (b"\n", b""):
            # A killed run's last line: whole without its line break, or torn.
            file.seek(0)
            tail = file.read().rpartition(b"\n")[2]
            if _is_json(tail):
                lines.insert(0, b"\n")
            else:
                file.truncate(length - len(tail))
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _is_json(line: bytes) -> bool:
    # A part of a JSON object is never valid JSON.
    try:
        json.loads(line or b"null")
    except ValueError:
        return False
    return True
