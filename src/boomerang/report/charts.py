"""What the figures show: every task and metric, and means over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..evaluate.results import Row
from .average import average_external, average_name, average_rows, averaged_tasks, is_mean
from .curves import curves, only_task
from .external import External
from .lines import Line, Lines
from .metrics import difference_of, is_difference, lower_is_better
from .scale import needs_log
from .seeds import shown
from .sources import ResultSet

# Of the height of a chart; in less, the shape of a line is lost.
_LITTLE_ROOM = 0.2


@dataclass(frozen=True)
class Chart:
    """One metric on one task, or its mean over several.

    Args:
        task: The task.
        metric: The metric.
        lines: At least one, the families first.
        averaged: The tasks whose mean it shows, or none.
        left_out: Names of what the mean leaves out, since it was not measured on all of them.
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
    result.sort(key=lambda chart: (-len(chart.averaged), lower_is_better(chart.metric) is True))
    for task, metric in sorted(dict.fromkeys(measures), key=lambda each: not is_mean(each[0])):
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
        ResultsError: No such rows, or several tasks and none named.
    """
    rows = shown(rows)
    task = only_task(rows) if task is None else task
    chosen = [row for row in rows if row.task == task]
    # Refuses a metric that is not there.
    curves(chosen, task=task, metric=metric)
    found = Lines.of({"results": chosen}, {})
    return Chart(task, metric, found.lines({"results": chosen}, {}, task, metric))


def _close_up(chart: Chart) -> list[Chart]:
    """The families by themselves, if what they are compared with leaves them little room."""
    families = tuple(line for line in chart.lines if line.kind == "family")
    if not families or len(families) == len(chart.lines):
        return []
    log = needs_log(_values(chart.lines), lower_is_better(chart.metric))
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
    first, *others = [averaged_tasks(each.rows, metric, each.groups) for each in sets]
    common = tuple(task for task in first if all(task in other for other in others))
    return common if len(common) > 1 else ()


def _average(
    found: Lines,
    sets: Sequence[ResultSet],
    external: Mapping[str, Sequence[External]],
    metric: str,
    tasks: tuple[str, ...],
) -> Chart:
    name = average_name(tasks)
    rows = {
        each.name: [
            *average_rows(each.rows, metric, tasks),
            *average_rows(each.rows, difference_of(metric), tasks),
        ]
        for each in sets
    }
    points = {source: average_external(each, metric, tasks) for source, each in external.items()}
    lines = found.lines(rows, points, name, metric)
    there = {point.name for line in lines if line.kind == "external" for point in line.points}
    partly = {each.name for some in external.values() for each in some if each.metric == metric}
    absent = {
        line.label for line in found.lines_of({each.name: each.rows for each in sets}, metric)
    } - {line.label for line in lines}
    return Chart(name, metric, lines, tasks, tuple(sorted((partly - there) | absent)))
