"""Points in words and as rows of a table: for tooltips, the choice, and the list of members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..units import show_bytes, show_count_briefly
from .charts import Chart
from .lines import Line, Point
from .metrics import better, label, lower_is_better, show_value, show_with_error
from .svg import Name

_SIZES = ("Patch", "Layers", "Parameters", "Weights")


class Cell(NamedTuple):
    """A cell of the table; an empty one has no text.

    Args:
        value: What it is sorted by.
        text: What it shows.
        error: The standard error beside it, or nothing.
        title: The change from the size below, in words.
        noise: Whether that change may well be noise.
    """

    value: float | int | None
    text: str = ""
    error: str = ""
    title: str = ""
    noise: bool = False


def member_listing(charts: Sequence[Chart], ids: Mapping[Name, str]) -> dict[str, Any]:
    """The heads and rows of the table, a row for each point of each line.

    Args:
        charts: At least one; close-ups repeat the values of others and are passed over.
        ids: What the script knows members by, of those that can be chosen.
    """
    charts = [chart for chart in charts if not chart.close_up]
    rows: dict[tuple[object, ...], tuple[Line, Point]] = {}
    values: dict[tuple[tuple[object, ...], int], Point] = {}
    for number, chart in enumerate(charts):
        for line in chart.lines:
            for point in line.points:
                who = _who(line, point)
                rows.setdefault(who, (line, point))
                values[who, number] = point
    heads = [{"name": name, "task": "", "hint": ""} for name in ("Model", *_SIZES)]
    heads += [
        {"name": label(chart.metric), "task": chart.task, "hint": better(chart.metric)}
        for chart in charts
    ]
    ordered = sorted(rows.items(), key=lambda row: row[1][0].index)
    return {
        "heads": heads,
        "rows": [
            {
                "line": line.index,
                "name": point.name if line.kind == "external" else line.label,
                "end": point.name if line.kind == "family" else "",
                "member": ids.get((line.key, point.member)),
                "cells": [
                    *_sizes(point),
                    *(_value(values.get((who, number))) for number in range(len(charts))),
                ],
            }
            for who, (line, point) in ordered
        ],
    }


def _who(line: Line, point: Point) -> tuple[object, ...]:
    return (line.key, point.member, "" if line.kind != "external" else point.name, point.parameters)


def _sizes(point: Point) -> list[Cell]:
    return [
        Cell(point.patch, str(point.patch)),
        Cell(point.layers, str(point.layers)),
        Cell(point.parameters, show_count_briefly(point.parameters)),
        Cell(point.bytes, show_bytes(point.bytes or 0)),
    ]


def _value(point: Point | None) -> Cell:
    if point is None:
        return Cell(None)
    value, _, error = show_with_error(point.value, point.stderr).partition(" ± ")
    title = "" if point.change is None else change(point)
    return Cell(point.value, value, error, title, point.is_noise)


def tooltip(chart: Chart, line: Line, point: Point) -> list[str]:
    """A point in a few lines, the first one a heading."""
    heading = f"{point.name}, {line.label}" if point.name else line.label
    sizes = [f"{show_count_briefly(point.parameters)} parameters"]
    if point.layers is not None:
        sizes.insert(0, f"{point.layers} layers")
    if point.bytes is not None:
        sizes.append(show_bytes(point.bytes))
    lines = [heading, " · ".join(sizes), measured(chart, point)]
    if point.change is not None:
        lines.append(change(point))
    return lines


def measured(chart: Chart, point: Point) -> str:
    """The value with its metric."""
    return f"{label(chart.metric)} {show_with_error(point.value, point.stderr)}"


def change(point: Point) -> str:
    """The difference to the member one size below, and whether it is noise."""
    assert point.change is not None
    value, stderr = point.change
    text = f"{show_with_error(value, stderr, sign=True)} against the size below"
    return f"{text}: within noise" if point.is_noise else text


def in_context(chart: Chart, line: Line, point: Point) -> str:
    """A point's value beside those of the student and the teacher."""
    ends = [other for other in line.points if other.name and other is not point]
    beside = ", ".join(f"{other.name} {show_value(other.value)}" for other in ends)
    joint = "," if chart.averaged else " on"
    what = f"{measured(chart, point)}{joint} {chart.task}"
    return f"{what} ({beside})." if beside else f"{what}."


def better_and_smaller(chart: Chart, points: Sequence[Point], index: int) -> str:
    """The best of the smaller members, if it was measured better; else nothing.

    Args:
        chart: The chart they are of.
        points: By size.
        index: Of the member in question.
    """
    lower = lower_is_better(chart.metric)
    if lower is None or index == 0:
        return ""
    sign = 1.0 if lower else -1.0
    best = min(points[:index], key=lambda point: sign * point.value)
    if sign * best.value >= sign * points[index].value:
        return ""
    return f"{best.layers} layers measured better: {show_with_error(best.value, best.stderr)}."


def description(chart: Chart) -> str:
    """The chart in a sentence for those who cannot see it."""
    parts = []
    for line in chart.lines:
        first, last = line.points[0], line.points[-1]
        if line.kind == "external":
            values = (f"{point.name} {show_value(point.value)}" for point in line.points)
            parts.append(f"{line.label}: {', '.join(values)}")
        else:
            parts.append(
                f"{line.label}: {show_value(first.value)} with {first.layers} layers to "
                f"{show_value(last.value)} with {last.layers}"
            )
    hint = better(chart.metric)
    return (
        f"{label(chart.metric)} on {chart.task} against size{f', {hint}' if hint else ''}. "
        f"{'; '.join(parts)}."
    )
