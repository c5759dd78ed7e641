"""A chart as SVG, for the page: complete as it is, and ready for the page's script to move.

The script only moves what is drawn here: every point carries its horizontal place for each unit of
size, and the marks of every unit's axis are there, those of one shown. No scale is computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from .axes import Frame, Sizes, value_scale
from .charts import Chart
from .labels import Label, Placed, Side, place
from .lines import Key, Line, Point
from .metrics import better, label, lower_is_better
from .scale import Scale, show_ticks, show_value
from .styles import marker_path

Name = tuple[Key, tuple[int, ...] | None]
"""A member of a line."""


def drawn(chart: Chart) -> tuple[Line, ...]:
    """The lines in the order they are drawn: the families last, on top."""
    return tuple(reversed(chart.lines))


def chart_svg(
    chart: Chart, frame: Frame, axes: Sequence[Sizes], number: int, ids: Mapping[Name, str]
) -> str:
    """A chart as an `<svg>` element.

    Args:
        chart: The chart.
        frame: Its size.
        axes: Those of `UNITS`, the first one shown.
        number: What the script knows the chart by.
        ids: What the script knows members by, of those that can be chosen.
    """
    scale = value_scale(chart)
    hint = better(chart.metric)
    title = label(chart.metric) + (f" ({hint})" if hint else "") + (", log scale" * scale.log)
    names = _names(chart, frame, axes[0], scale)
    lines = [_line(line, frame, axes, scale, ids, names) for line in drawn(chart)]
    return "".join((
        f'<svg class="chart" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'data-chart="{number}" aria-label="{escape(_description(chart))}">',
        f'<text class="title" x="4" y="14">{escape(title)}</text>',
        _value_marks(frame, scale),
        *(_size_marks(frame, axis, shown=index == 0) for index, axis in enumerate(axes)),
        *lines,
        "</svg>",
    ))  # fmt: skip


def swatch_svg(line: Line) -> str:
    """A line and its marker for a legend."""
    stroke = f'<path class="stroke" stroke-dasharray="{line.style.dashes}" d="M1,8H35"/>'
    return (
        f'<svg class="swatch" viewBox="0 0 36 16" aria-hidden="true"><g class="c{line.index}">'
        f'{stroke if line.connected else ""}<path class="mark" transform="translate(18,8)" '
        f'd="{line.style.outline}"/></g></svg>'
    )


def _value_marks(frame: Frame, scale: Scale) -> str:
    marks = []
    for tick, text in zip(scale.ticks, show_ticks(scale.ticks), strict=True):
        y = frame.y(scale(tick))
        marks.append(
            f'<path d="M{frame.left},{y}H{frame.width - frame.right}"/>'
            f'<text x="{frame.left - 7}" y="{y + 4:g}">{text}</text>'
        )
    return f'<g class="values">{"".join(marks)}</g>'


def _size_marks(frame: Frame, axis: Sizes, *, shown: bool) -> str:
    base = frame.height - frame.bottom
    marks = [
        f'<path d="M{frame.x(axis.scale(tick))},{base}v5"/>'
        f'<text x="{frame.x(axis.scale(tick))}" y="{base + 19}">{text}</text>'
        for tick, text in zip(axis.scale.ticks, show_ticks(axis.scale.ticks), strict=True)
    ]
    middle = (frame.left + frame.width - frame.right) / 2
    hidden = "" if shown else ' hidden=""'
    return (
        f'<g class="sizes" data-unit="{axis.unit}"{hidden}>'
        f'<path d="M{frame.left},{base}H{frame.width - frame.right}"/>{"".join(marks)}'
        f'<text class="name" x="{middle:g}" y="{base + 39}">{axis.title}</text></g>'
    )


def _names(
    chart: Chart, frame: Frame, axis: Sizes, scale: Scale
) -> dict[tuple[Key, Point], Placed]:
    """Where the names of the families' ends and of models from elsewhere stand."""
    # The labels of the vertical axis are as much in the way as points.
    obstacles = [(frame.left - 20.0, frame.y(scale(tick))) for tick in scale.ticks]
    wanted: list[tuple[Key, Point]] = []
    labels: list[Label] = []
    # Above the better line there is nothing.
    first: Side = "above" if lower_is_better(chart.metric) is False else "below"
    ends: tuple[Side, ...] = (first, "below" if first == "above" else "above")
    for line in chart.lines:
        places = [(axis.place(point), scale(point.value)) for point in line.points]
        known = [(frame.x(x), frame.y(y)) for x, y in places if x is not None]
        obstacles += known
        if line.connected:
            obstacles += [
                (a + (c - a) * part, b + (d - b) * part)
                for (a, b), (c, d) in pairwise(known)
                for part in (0.25, 0.5, 0.75)
            ]
        for point, (x, y) in zip(line.points, places, strict=True):
            if point.name and line.kind != "baseline" and x is not None:
                sides = (*ends, "left") if line.kind == "family" else ("right", "left", *ends)
                wanted.append((line.key, point))
                labels.append(Label(frame.x(x), frame.y(y), point.name, sides))
    area = (0.0, frame.top - 14.0, float(frame.width), float(frame.height - frame.bottom))
    placed = place(labels, obstacles, area)
    found = zip(wanted, placed, strict=True)
    return {who: where for who, where in found if where is not None}


def _line(
    line: Line,
    frame: Frame,
    axes: Sequence[Sizes],
    scale: Scale,
    ids: Mapping[Name, str],
    names: Mapping[tuple[Key, Point], Placed],
) -> str:
    places = [[axis.place(point) for axis in axes] for point in line.points]
    drawn = [
        _point(
            line,
            point,
            [None if x is None else frame.x(x) for x in place],
            frame,
            scale,
            member=ids.get((line.key, point.member)),
            name=names.get((line.key, point)),
        )
        for point, place in zip(line.points, places, strict=True)
    ]
    stroke = ""
    if line.connected:
        corners = [
            f"{frame.x(place[0])},{frame.y(scale(point.value))}"
            for point, place in zip(line.points, places, strict=True)
            if place[0] is not None
        ]
        stroke = (
            f'<path class="stroke" stroke-dasharray="{line.style.dashes}" '
            f'd="M{"L".join(corners)}"/>'
        )
    return f'<g class="line c{line.index}" data-line="{line.index}">{stroke}{"".join(drawn)}</g>'


def _point(
    line: Line,
    point: Point,
    places: Sequence[float | None],
    frame: Frame,
    scale: Scale,
    *,
    member: str | None,
    name: Placed | None,
) -> str:
    xs = ["" if place is None else f"{place:g}" for place in places]
    y = frame.y(scale(point.value))
    parts = [_error_bar(point, frame, scale), _mark(line, point)]
    if name is not None:
        parts.append(
            f'<text text-anchor="{name.anchor}" x="{name.dx:g}" y="{name.dy:g}">'
            f"{escape(point.name)}</text>"
        )
    known = "" if member is None else f' data-member="{member}"'
    return (
        f'<g class="point"{known} data-x="{" ".join(x or "-" for x in xs)}" data-y="{y}" '
        f'transform="translate({xs[0]},{y})">{"".join(parts)}</g>'
    )


def _mark(line: Line, point: Point) -> str:
    if line.kind == "family" and point.name == "teacher":
        return f'<path class="mark" d="{marker_path("*")}"/>'
    ring = line.kind == "family" and point.name == "student"
    outer = f'<path class="ring" d="{marker_path("o", 8.0)}"/>' if ring else ""
    hollow = " hollow" if point.is_noise else ""
    return f'{outer}<path class="mark{hollow}" d="{line.style.outline}"/>'


def _error_bar(point: Point, frame: Frame, scale: Scale) -> str:
    if not point.stderr:
        return ""
    y = frame.y(scale(point.value))
    top = frame.y(scale(point.value + point.stderr)) - y
    low = point.value - point.stderr
    bottom = frame.y(scale(low) if low > 0 or not scale.log else 0.0) - y
    return f'<path class="error" d="M0,{top:.1f}V{bottom:.1f}M-3,{top:.1f}h6M-3,{bottom:.1f}h6"/>'


def _description(chart: Chart) -> str:
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
