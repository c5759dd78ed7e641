"""`results.jsonl`: what was measured, one row for each value of a metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from ..errors import ResultsError
from .jsonl import append_lines, read_lines

RESULTS_FILE = "results.jsonl"

FAMILY = "family"
"""The series of the family itself; every other name of a series is that of a baseline."""

PRETRAINED = "pretrained"
"""The series of models that were trained elsewhere, which are no sizes of one thing."""


PERPLEXITY = "perplexity"
BITS_PER_BYTE = "bits_per_byte"
DIFFERENCE = "perplexity_difference"
"""Perplexity minus that of the member one size below along the same order, where that is measured;
its standard error is paired over the items."""


class Row(BaseModel):
    """One measured value of one member.

    Attributes:
        member: The patched student layers, increasing.
        patch: k, the number of patched blocks of more than one layer.
        order: The order the member was chosen along; None for a free set of blocks.
        num_layers: Layers of the member.
        parameters: Parameters of the member; a tied head is counted once.
        bytes: Bytes these parameters take as measured.
        task: What was measured on: a text or a task.
        metric: What was measured: `perplexity`, `bits_per_byte`, ...
        value: The value; finite.
        stderr: Its standard error in the same unit, or None where there is none.
        items: How many items (windows of text, questions) the value and its standard error rest on.
        teacher: Content hash of the teacher.
        student: Content hash of the student.
        series: `family`, or the name of a baseline or of a study's variant.
        seed: In a study, the seed of the distillation; None elsewhere, and then not written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    member: tuple[int, ...]
    patch: int = Field(ge=0)
    order: str | None
    num_layers: int = Field(ge=1, lt=1 << 63)
    parameters: int = Field(ge=1, lt=1 << 63)
    bytes: int = Field(ge=1, lt=1 << 63)
    task: str
    metric: str
    value: float
    stderr: float | None = Field(ge=0)
    items: int = Field(ge=1)
    teacher: str
    student: str
    series: str
    seed: int | None = None

    @model_serializer(mode="wrap")
    def _without_missing_seed(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        if content["seed"] is None:
            del content["seed"]
        return content

    @property
    def key(self) -> tuple[object, ...]:
        """What the row is a measurement of: two rows with one key differ in their figures only."""
        who = (self.teacher, self.student, self.series, self.seed)
        return (*who, self.order, self.member, *self.measure)

    @property
    def measure(self) -> tuple[str, str]:
        """Task and metric."""
        return (self.task, self.metric)


def read_results(path: str | Path) -> list[Row]:
    """The rows of a results file, in the order of writing.

    A torn last line, which a killed run leaves behind, is passed over.

    Args:
        path: The file, or a directory with a `results.jsonl`.

    Raises:
        ResultsError: The file cannot be read, or a line is not a row; names file, line and field.
    """
    path = Path(path)
    if path.is_dir():
        path = path / RESULTS_FILE
    return [_row(value, path, number) for number, value in read_lines(path)]


def append_results(path: str | Path, rows: Iterable[Row]) -> None:
    """Add rows to a results file, each written whole.

    Args:
        path: The file; made if it does not exist.
        rows: What to add.
    """
    append_lines(path, (row.model_dump() for row in rows))


def current(rows: Sequence[Row]) -> list[Row]:
    """The rows that still hold: of a row written twice the last, of a series the last student.

    A file keeps what was measured of a student that has changed since; a report must not mix them.
    Each seed of a series has a student of its own. A series in which no row has patched layers or
    an order is of models that stand alone: each is a student of its own, and the last of each size
    (layers and parameters) holds.

    Args:
        rows: Rows in the order of writing.
    """
    families = {(row.teacher, row.series) for row in rows if row.member or row.order is not None}

    def of_one_student(row: Row) -> tuple[object, ...]:
        series = (row.teacher, row.series)
        size = () if series in families else (row.num_layers, row.parameters)
        return (*series, row.seed, *size)

    students = {of_one_student(row): row.student for row in rows}
    last = {row.key: row for row in rows}
    return [row for row in last.values() if row.student == students[of_one_student(row)]]


def _row(value: object, path: Path, number: int) -> Row:
    where = f"{path} line {number}"
    if not isinstance(value, dict):
        raise ResultsError("is no JSON object", where=where)
    if isinstance(value.get("member"), list):
        value = {**value, "member": tuple(value["member"])}
    try:
        return Row.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        problem = {
            "missing": "is missing",
            "extra_forbidden": "is not known",
            "finite_number": "is not a finite number",
        }.get(first["type"], f"is {first['input']!r}: {first['msg'].lower()}")
        raise ResultsError(f'field "{field}" {problem}', where=where) from None
