"""The mean over tasks, as rows of a task of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..evaluate.results import FAMILY, Row
from .external import External
from .metrics import has_an_average


def averaged_tasks(
    rows: Sequence[Row], metric: str, groups: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """The tasks whose mean of a metric is shown, in the order of the rows; none if there is one.

    A group stands for its tasks, and the widest group for those in it: they would count twice.
    There is no mean beside one that was measured.

    Args:
        rows: Of one set of results.
        metric: The metric.
        groups: The tasks of each group.
    """
    if not has_an_average(metric):
        return ()
    tasks = [row.task for row in rows if row.metric == metric and row.series == FAMILY]
    names = tuple(dict.fromkeys(tasks))
    covers = [groups[name] for name in names if name in groups]
    whole = tuple(
        name
        for name in names
        if not any(name in group or groups.get(name, group) < group for group in covers)
    )
    return whole if len(whole) > 1 and not any(map(is_mean, names)) else ()


def is_mean(task: str) -> bool:
    """Whether a task is a mean that the evaluation itself took: its name has a slash."""
    return "/" in task


def average_name(tasks: Sequence[str]) -> str:
    """What the mean over tasks is called."""
    return f"average of {len(tasks)} tasks"


def average_rows(rows: Sequence[Row], metric: str, tasks: Sequence[str]) -> list[Row]:
    """For each member that was measured on all tasks, the mean over them.

    Its standard error is that of a mean of independent values, and None where one has none. So
    for a difference: it is paired within each task.

    Args:
        rows: Rows that hold, of any metric.
        metric: The metric, which may be a difference.
        tasks: The tasks, at least one.

    Returns:
        Rows of the task `average_name(tasks)`, in the order of the first task's.
    """
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        if row.metric == metric and row.task in tasks:
            member = (row.teacher, row.student, row.series, row.order, row.member)
            found.setdefault(member, {})[row.task] = row
    return [
        parts[tasks[0]].model_copy(
            update={
                "task": average_name(tasks),
                "value": _mean([parts[task].value for task in tasks]),
                "stderr": _stderr([parts[task].stderr for task in tasks]),
                "items": sum(parts[task].items for task in tasks),
            }
        )
        for parts in found.values()
        if len(parts) == len(tasks)
    ]


def average_external(
    points: Sequence[External], metric: str, tasks: Sequence[str]
) -> list[External]:
    """The same for models from elsewhere."""
    found: dict[tuple[str, int], dict[str, External]] = {}
    for point in points:
        if point.metric == metric and point.task in tasks:
            found.setdefault((point.name, point.parameters), {})[point.task] = point
    return [
        External(
            name=name,
            parameters=parameters,
            task=average_name(tasks),
            metric=metric,
            value=_mean([parts[task].value for task in tasks]),
            stderr=_stderr([parts[task].stderr for task in tasks]),
            bytes=parts[tasks[0]].bytes,
            layers=parts[tasks[0]].layers,
        )
        for (name, parameters), parts in found.items()
        if len(parts) == len(tasks)
    ]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return math.sqrt(math.fsum(error * error for error in known)) / len(known)
