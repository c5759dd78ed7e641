"""What the figures show: every task and metric, and means over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..evaluate.results import FAMILY, Row
from .external import External
from .lines import Line, Lines, curves, only_task
from .metrics import difference_of, has_an_average, is_difference, lower_is_better
from .sources import ResultSet, shown

# Of the height of a chart; in less, the shape of a line is lost.
_LITTLE_ROOM = 0.2

# From this ratio of the largest value to the smallest on, a linear axis hides what matters below.
_LOG_FROM = 2.5


@dataclass(frozen=True)
class Chart:
    """One metric on one task, or its mean over several.

    Args:
        task: The task.
        metric: The metric.
        lines: At least one, the families first.
        averaged: The tasks whose mean it shows, or none.
        left_out: Names of what the mean leaves out, because it was not measured on all of them.
        close_up: Whether it shows the families alone, of a chart in which they lie flat.
    """

    task: str
    metric: str
    lines: tuple[Line, ...]
    averaged: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    close_up: bool = False


def charts(sets: Sequence[ResultSet], external: Mapping[str, Sequence[External]]) -> list[Chart]:
    """Every chart of a report: means over tasks first, then task by task as they were measured.

    Args:
        sets: The sets of results, at least one.
        external: Models from elsewhere, by the name of their source; those of tasks that no set was
            measured on are passed over.
    """
    found = Lines.of({each.name: each.rows for each in sets}, external)
    rows = [row for each in sets for row in each.rows]
    measures = [row.measure for row in rows if not is_difference(row.metric)]
    result = []
    for metric in dict.fromkeys(metric for _, metric in measures):
        tasks = _common_tasks(sets, metric)
        if tasks:
            result.append(_average(found, sets, external, metric, tasks))
    # There may be no model that was measured on all tasks.
    result = [chart for chart in result if chart.lines]
    result.sort(key=lambda chart: (-len(chart.averaged), lower_is_better(chart.metric) is True))
    for task, metric in sorted(dict.fromkeys(measures), key=lambda each: not _is_mean(each[0])):
        lines = found.lines({each.name: each.rows for each in sets}, external, task, metric)
        result.append(Chart(task, metric, lines))
    return [each for chart in result for each in (chart, *_close_up(chart))]


def one_chart(rows: Sequence[Row], *, task: str | None = None, metric: str) -> Chart:
    """The chart of one task and metric of one set of results.

    Args:
        rows: Rows in the order of writing; outdated ones are left out.
        task: The task; may be left out when the rows are of one task only.
        metric: The metric.

    Raises:
        ResultsError: There are no rows of them, or several tasks and none named.
    """
    rows = shown(rows)
    task = only_task(rows) if task is None else task
    chosen = [row for row in rows if row.task == task]
    # Refuses a metric that is not there.
    curves(chosen, task=task, metric=metric)
    found = Lines.of({"results": chosen}, {})
    return Chart(task, metric, found.lines({"results": chosen}, {}, task, metric))


def is_log(chart: Chart) -> bool:
    """Whether values span so much that a linear axis hides what matters.

    Only where lower is better: those metrics have no upper end, and bad models explode.
    """
    errors = [point.value - (point.stderr or 0.0) for line in chart.lines for point in line.points]
    return min(errors) > 0 and _needs_log(_values(chart.lines), chart.metric)


def _needs_log(values: Sequence[float], metric: str) -> bool:
    low, high = min(values), max(values)
    return lower_is_better(metric) is True and low > 0 and high / low >= _LOG_FROM


def _close_up(chart: Chart) -> list[Chart]:
    """The families by themselves, if what they are compared with leaves them little room."""
    families = tuple(line for line in chart.lines if line.kind == "family")
    if not families or len(families) == len(chart.lines):
        return []
    log = _needs_log(_values(chart.lines), chart.metric)
    room = _span(_values(families), log) / (_span(_values(chart.lines), log) or 1.0)
    alone = replace(chart, lines=families, left_out=(), close_up=True)
    return [alone] if 0 < room < _LITTLE_ROOM else []


def _values(lines: Sequence[Line]) -> list[float]:
    return [point.value for line in lines for point in line.points]


def _span(values: Sequence[float], log: bool) -> float:
    low, high = min(values), max(values)
    return math.log(high / low) if log else high - low


def _common_tasks(sets: Sequence[ResultSet], metric: str) -> tuple[str, ...]:
    """The tasks that every set has, of those a mean is taken over."""
    first, *others = [_averaged_tasks(each.rows, metric, each.groups) for each in sets]
    common = tuple(task for task in first if all(task in other for other in others))
    return common if len(common) > 1 else ()


def _average(
    found: Lines,
    sets: Sequence[ResultSet],
    external: Mapping[str, Sequence[External]],
    metric: str,
    tasks: tuple[str, ...],
) -> Chart:
    name = _average_name(tasks)
    rows = {
        each.name: [
            *_average_rows(each.rows, metric, tasks),
            *_average_rows(each.rows, difference_of(metric), tasks),
        ]
        for each in sets
    }
    points = {source: _average_external(each, metric, tasks) for source, each in external.items()}
    lines = found.lines(rows, points, name, metric)
    there = {point.name for line in lines if line.kind == "external" for point in line.points}
    partly = {each.name for some in external.values() for each in some if each.metric == metric}
    absent = {
        line.label for line in found.lines_of({each.name: each.rows for each in sets}, metric)
    } - {line.label for line in lines}
    return Chart(name, metric, lines, tasks, tuple(sorted((partly - there) | absent)))


def _averaged_tasks(
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
    return whole if len(whole) > 1 and not any(map(_is_mean, names)) else ()


def _is_mean(task: str) -> bool:
    """Whether a task is a mean that the evaluation itself took: its name has a slash."""
    return "/" in task


def _average_name(tasks: Sequence[str]) -> str:
    """What the mean over tasks is called."""
    return f"average of {len(tasks)} tasks"


def _average_rows(rows: Sequence[Row], metric: str, tasks: Sequence[str]) -> list[Row]:
    """For each member that was measured on all tasks, the mean over them.

    Its standard error is that of a mean of independent values, and None where one has none. So
    for a difference: it is paired within each task.

    Args:
        rows: Rows that hold, of any metric.
        metric: The metric, which may be a difference.
        tasks: The tasks, at least one.

    Returns:
        Rows of the task `_average_name(tasks)`, in the order of the first task's.
    """
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        if row.metric == metric and row.task in tasks:
            member = (row.teacher, row.student, row.series, row.order, row.member)
            found.setdefault(member, {})[row.task] = row
    return [
        parts[tasks[0]].model_copy(
            update={
                "task": _average_name(tasks),
                "value": _mean([parts[task].value for task in tasks]),
                "stderr": _stderr([parts[task].stderr for task in tasks]),
                "items": sum(parts[task].items for task in tasks),
            }
        )
        for parts in found.values()
        if len(parts) == len(tasks)
    ]


def _average_external(
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
            task=_average_name(tasks),
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
