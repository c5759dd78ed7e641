"""What the figures show: every task and metric, and means over tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ..errors import ResultsError
from ..evaluate.results import FAMILY, PERPLEXITY, Row
from .external import External
from .series import Line, Point, all_lines
from .sources import ResultSet, shown
from .words import is_difference, lower_is_better

# A share of a chart's height; in less, the shape of a line is lost.
_LITTLE_ROOM = 0.2

# From this ratio of the largest value to the smallest on, a linear axis hides what matters below.
_LOG_FROM = 2.5


@dataclass(frozen=True)
class Chart:
    """One metric on one task, or its mean over several."""

    task: str
    metric: str
    lines: tuple[Line, ...]  # at least one, the families first
    averaged: tuple[str, ...] = ()  # the tasks whose mean it shows
    left_out: tuple[str, ...] = ()  # models and lines that were not measured on all of them
    close_up: bool = False  # the families alone, of a chart in which they lie flat

    @property
    def points(self) -> list[Point]:
        """The points of all lines."""
        return [point for line in self.lines for point in line.points]

    @property
    def is_log(self) -> bool:
        """Whether values span so much that a linear axis hides what matters.

        Only where lower is better: those metrics have no upper end, and bad models explode.
        """
        values = [point.value for point in self.points]
        lowest = min(point.value - (point.stderr or 0.0) for point in self.points)
        wide = lowest > 0 and max(values) / min(values) >= _LOG_FROM
        return wide and lower_is_better(self.metric) is True


def charts(sets: Sequence[ResultSet], external: Mapping[str, Sequence[External]]) -> list[Chart]:
    """Every chart of at least one set: means over tasks first, then tasks as they were measured.

    Models from elsewhere, by the name of their source, are passed over on tasks of no set.
    """
    lines = all_lines({each.name: each.rows for each in sets}, external)
    rows = [row for each in sets for row in each.rows]
    measures = dict.fromkeys(row.measure for row in rows if not is_difference(row.metric))
    means = [
        _average(lines, metric, tasks)
        for metric in dict.fromkeys(metric for _, metric in measures)
        if (tasks := _common_tasks(sets, metric))
    ]
    means.sort(key=lambda chart: (-len(chart.averaged), lower_is_better(chart.metric) is True))
    found = measured(lines, sorted(measures, key=lambda measure: not _is_mean(measure[0])))
    # There may be no model that was measured on all tasks.
    means = [chart for chart in means if chart.lines]
    return [each for chart in (*means, *found) for each in (chart, *_close_up(chart))]


def measured(lines: Sequence[Line], measures: Iterable[tuple[str, str]]) -> list[Chart]:
    """The charts of tasks and metrics, without those that no line has."""
    found = []
    for task, metric in measures:
        mine = tuple(line for each in lines if (line := each.of(task, metric)).points)
        if mine:
            found.append(Chart(task, metric, mine))
    return found


def one_chart(rows: Sequence[Row], *, task: str | None = None, metric: str = PERPLEXITY) -> Chart:
    """The chart of one task and metric of one set of results; `task` is for rows of several.

    The rows are in the order of writing, and outdated ones are left out.

    Raises:
        ResultsError: There are no rows of them, or several tasks and none named.
    """
    rows = shown(rows)
    tasks = sorted({row.task for row in rows}) if task is None else [task]
    if len(tasks) > 1:
        raise ResultsError(f"there are results for {', '.join(tasks)}", fix="name one task")
    lines = all_lines({"results": [row for row in rows if row.task in tasks]}, {})
    found = measured(lines, [(each, metric) for each in tasks])
    if not found:
        raise ResultsError(f"there are no results for {metric} of {', '.join(tasks) or 'any task'}")
    return found[0]


def models(charts: Sequence[Chart]) -> list[tuple[Line, list[Point | None]]]:
    """Every model of every line, lines in their order, with its point in each of the charts."""
    found: dict[tuple[object, ...], tuple[Line, list[Point | None]]] = {}
    for number, chart in enumerate(charts):
        for line in chart.lines:
            for point in line.points:
                row = found.setdefault((line.index, point.model), (line, [None] * len(charts)))
                row[1][number] = point
    return sorted(found.values(), key=lambda row: row[0].index)


def _close_up(chart: Chart) -> list[Chart]:
    """The families by themselves, if what they are compared with leaves them little room."""
    families = tuple(line for line in chart.lines if line.key.kind == "family")
    if not families or len(families) == len(chart.lines):
        return []
    alone = replace(chart, lines=families, left_out=(), close_up=True)
    room = _span(alone, chart.is_log) / (_span(chart, chart.is_log) or 1.0)
    return [alone] if 0 < room < _LITTLE_ROOM else []


def _span(chart: Chart, log: bool) -> float:
    values = [point.value for point in chart.points]
    low, high = min(values), max(values)
    return math.log(high / low) if log else high - low


def _common_tasks(sets: Sequence[ResultSet], metric: str) -> tuple[str, ...]:
    """The tasks that every set has, of those a mean is taken over; none if there is only one.

    A mean of perplexities makes no sense: they are on scales of their own, and one hard text would
    decide.
    """
    if metric.partition(",")[0].endswith("perplexity"):
        return ()
    first, *others = [_averaged_tasks(each, metric) for each in sets]
    common = tuple(task for task in first if all(task in other for other in others))
    return common if len(common) > 1 else ()


def _averaged_tasks(each: ResultSet, metric: str) -> tuple[str, ...]:
    """The tasks of one set whose mean is taken, in the order of the rows.

    A group stands for its tasks, and the widest group for those in it: they would count twice.
    There is no mean beside one that was measured.
    """
    rows = (row for row in each.rows if row.metric == metric and row.series == FAMILY)
    names = tuple(dict.fromkeys(row.task for row in rows))
    if any(map(_is_mean, names)):
        return ()
    groups = each.groups
    covers = [groups[name] for name in names if name in groups]
    return tuple(
        name
        for name in names
        if not any(name in group or groups.get(name, group) < group for group in covers)
    )


def _is_mean(task: str) -> bool:
    """Whether a task is a mean that the evaluation itself took: its name has a slash."""
    return "/" in task


def _average(lines: Sequence[Line], metric: str, tasks: tuple[str, ...]) -> Chart:
    """The mean over tasks, of every model that was measured on all of them."""
    name = f"average of {len(tasks)} tasks"
    means = tuple(
        line
        for each in lines
        if (line := replace(each, points=tuple(_means(each, name, metric, tasks)))).points
    )
    some = {each.name_of(p) for each in lines for p in each.points if p.metric == metric}
    there = {line.name_of(point) for line in means for point in line.points}
    return Chart(name, metric, means, tasks, tuple(sorted(some - there)))


def _means(line: Line, name: str, metric: str, tasks: Sequence[str]) -> Iterator[Point]:
    """The means of models that have all tasks; their errors are those of independent tasks."""
    found: dict[tuple[object, ...], dict[str, Point]] = {}
    for point in line.points:
        if point.metric == metric and point.task in tasks:
            found.setdefault(point.model, {})[point.task] = point
    for parts in found.values():
        points = [parts[task] for task in tasks if task in parts]
        changes = [point.change for point in points if point.change is not None]
        change = None
        if len(changes) == len(tasks):
            change = (fmean([each[0] for each in changes]), _stderr([each[1] for each in changes]))
        if len(points) == len(tasks):
            value = fmean([point.value for point in points])
            stderr = _stderr([point.stderr for point in points])
            yield replace(points[0], task=name, value=value, stderr=stderr, change=change)


def _stderr(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if len(known) == len(errors) else None
