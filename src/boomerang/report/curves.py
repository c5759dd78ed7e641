"""Rows arranged as curves: one for each series and order, points by size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ResultsError
from ..evaluate.results import FAMILY, Row

_NAMES = {
    FAMILY: "boomerang family",
    "naive": "naive pruning",
    "random": "random initialisation",
    "shortgpt": "ShortGPT",
    "laco": "LaCo",
    "distilled": "distilled one by one",
}


@dataclass(frozen=True)
class Curve:
    """One metric of one series on one task, along one order.

    Attributes:
        name: The series in words.
        rows: The points by increasing size, at least one.
        student: The point with nothing patched, if it was measured.
        teacher: The point with everything patched, if it was measured.
    """

    name: str
    rows: tuple[Row, ...]
    student: Row | None
    teacher: Row | None

    @property
    def series(self) -> str:
        """The series of the rows."""
        return self.rows[0].series


def curves(
    rows: Sequence[Row], *, task: str | None = None, metric: str = "perplexity"
) -> list[Curve]:
    """The curves of one task and metric, the family first, each in the order it was measured in.

    Args:
        rows: Rows that hold, one for all seeds: what `shown` returned.
        task: The task; may be left out when the rows are of one task only.
        metric: The metric.

    Raises:
        ResultsError: No such rows, or several tasks and none named.
    """
    task = only_task(rows) if task is None else task
    chosen = [row for row in rows if row.measure == (task, metric)]
    if not chosen:
        raise ResultsError(f"there are no results for {metric} of {task}")
    groups: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in chosen:
        groups.setdefault((row.series, row.order, row.teacher), []).append(row)
    keys = sorted(groups, key=lambda key: key[0] != FAMILY)
    result = []
    for key in keys:
        points = sorted(groups[key], key=lambda row: (row.num_layers, row.parameters))
        name = _NAMES.get(key[0], key[0])
        result.append(Curve(name, tuple(points), _student(points), _teacher(points)))
    return result


def only_task(rows: Sequence[Row]) -> str:
    """The task of rows that are all of one task.

    Raises:
        ResultsError: There are no rows, or several tasks.
    """
    tasks = sorted({row.task for row in rows})
    if not tasks:
        raise ResultsError("there are no results", fix="run `boomerang evaluate` first")
    if len(tasks) > 1:
        raise ResultsError(f"there are results for {', '.join(tasks)}", fix="name one task")
    return tasks[0]


def _student(points: Sequence[Row]) -> Row | None:
    return next((row for row in points if not row.member), None)


def _teacher(points: Sequence[Row]) -> Row | None:
    # Everything is patched in the member that has as many patched layers as the student has layers.
    student = _student(points)
    if student is None:
        return None
    return next((row for row in points if len(row.member) == student.num_layers), None)
