"""Points in words: for tooltips, the choice of a member, and the table of members."""

from __future__ import annotations

from collections.abc import Sequence

from ..units import show_bytes, show_count_briefly
from .charts import Chart
from .series import Line, Point
from .words import label, lower_is_better, show_value, show_with_error


def tooltip(chart: Chart, line: Line, point: Point) -> list[str]:
    """A point in a few lines, the first one a heading."""
    heading = f"{point.name}, {line.label}" if point.name else line.label
    sizes = [f"{show_count_briefly(point.parameters)} parameters"]
    if point.layers is not None:
        sizes.insert(0, f"{point.layers} layers")
    if point.bytes is not None:
        sizes.append(show_bytes(point.bytes))
    changes = [change(point)] if point.change else []
    return [heading, " · ".join(sizes), _measured(chart, point), *changes]


def change(point: Point) -> str:
    """The difference to the member one size below, and whether it is noise; empty if unknown."""
    if point.change is None:
        return ""
    text = f"{show_with_error(*point.change, sign=True)} against the size below"
    return f"{text}: within noise" if point.is_noise else text


def in_context(chart: Chart, line: Line, point: Point) -> str:
    """A point's value beside those of the student and the teacher."""
    ends = [other for other in line.points if other.name and other is not point]
    beside = ", ".join(f"{other.name} {show_value(other.value)}" for other in ends)
    joint = "," if chart.averaged else " on"
    what = f"{_measured(chart, point)}{joint} {chart.task}"
    return f"{what} ({beside})." if beside else f"{what}."


def better_and_smaller(chart: Chart, points: Sequence[Point], index: int) -> str:
    """The best of the members smaller than `points[index]`, if it was better; else nothing."""
    lower = lower_is_better(chart.metric)
    if lower is None or index == 0:
        return ""
    sign = 1.0 if lower else -1.0
    best = min(points[:index], key=lambda point: sign * point.value)
    if sign * best.value >= sign * points[index].value:
        return ""
    return f"{best.layers} layers measured better: {show_with_error(best.value, best.stderr)}."


def _measured(chart: Chart, point: Point) -> str:
    return f"{label(chart.metric)} {show_with_error(point.value, point.stderr)}"
