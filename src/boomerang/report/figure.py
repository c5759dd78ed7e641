"""Size against quality, drawn by matplotlib: for a paper, and for the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..errors import OutputError
from .charts import Chart
from .series import Line, Point
from .words import better, bytes_unit, count_unit, label, lower_is_better

UNITS = ("parameters", "bytes", "layers")
"""The units of size, names of attributes of a point."""

# Around names, so that lines behind them do not cross the letters.
_HALO = [withStroke(linewidth=3, foreground="white")]
_LONGEST_NAME = 40
# Two ends closer than this share of the axes are named once.
_NEAR = 0.08

PAPER_RC: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names may hold a dollar sign
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "svg.hashsalt": "boomerang",  # the same rows make the same bytes
}


@dataclass(frozen=True)
class SizeAxis:
    """The horizontal axis for one unit of size; sizes are divided before they are drawn."""

    unit: str  # one of `UNITS`
    title: str
    divisor: float
    limits: tuple[float, float]

    @classmethod
    def of(cls, unit: str, charts: Sequence[Chart]) -> SizeAxis:
        """The axis that holds every point of the charts."""
        points = (point for chart in charts for point in chart.points)
        sizes = [size for point in points if (size := getattr(point, unit)) is not None]
        units = {"parameters": count_unit, "bytes": bytes_unit, "layers": lambda _: (1.0, "")}
        divisor, name = units[unit](max(sizes))
        low, high = min(sizes) / divisor, max(sizes) / divisor
        room = 0.08 * ((high - low) or high)
        words = "Weights as measured" if unit == "bytes" else unit.capitalize()
        title = f"{words} ({name})" if name else words
        return cls(unit, title, divisor, (low - room, high + room))

    def place(self, point: Point) -> float | None:
        """Where a point is, or None where its size is not known in this unit."""
        size: int | None = getattr(point, self.unit)
        return None if size is None else size / self.divisor


def save_figure(chart: Chart, stem: str | Path) -> tuple[Path, Path]:
    """The paths of a chart as PNG and SVG, which it writes; existing files are replaced.

    The PNG is 1600 pixels wide. Letters in the SVG are paths, so that it needs no fonts. `stem` is
    the path of both without their suffix.

    Raises:
        OutputError: The files cannot be written.
    """
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    with matplotlib.rc_context(PAPER_RC):
        figure = _paper_figure(chart)
        save_picture(figure, png)
        save_picture(figure, svg)
    return png, svg


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its name's ending, whole or not at all; makes the directory.

    Raises:
        OutputError: It cannot be written.
    """
    # Without a date, so that equal figures are equal files.
    options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format=path.suffix[1:], **options)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=path) from None


def line_id(line: Line, axis: SizeAxis) -> str:
    """The id of a line's path and markers in an SVG file."""
    return f"line-{line.index}-{axis.unit}"


def _paper_figure(chart: Chart) -> Figure:
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_value_axis(axes, chart)
    draw_lines(axes, chart, SizeAxis.of("parameters", [chart]), page=False)
    hint = better(chart.metric)
    what = f"{label(chart.metric)}{', ' if chart.averaged else ' on '}{chart.task}"
    # The axis is about 45 letters high.
    space = "\n" if len(what) + len(hint) > 42 else " "
    axes.set_ylabel(_printable(what) + f"{space}({hint})" * bool(hint))
    axes.xaxis.grid(True, color="0.9")
    figure.legend(
        loc="outside upper left", ncols=min(3, len(chart.lines)), frameon=False, handlelength=3
    )
    return figure


def draw_lines(axes: Axes, chart: Chart, axis: SizeAxis, *, page: bool) -> None:
    """Draw every line of a chart, and the horizontal axis; the vertical one must be there.

    On the page names are short, and the style sheet gives them their outline.
    """
    axes.set_xlim(axis.limits)
    axes.set_xlabel(axis.title, gid="size-title")
    to_axes = axes.transScale + axes.transLimits
    named: list[Any] = []
    for line in chart.lines:
        known = [(x, point) for point in line.points if (x := axis.place(point)) is not None]
        _draw_line(axes, line, axis, known, page=page)
        if line.key.kind == "baseline":
            continue
        for x, point in known:
            if point.name and line.key.kind == "family":
                _draw_end(axes, line, x, point)
            place = to_axes.transform((x, point.value))
            if point.name and not any(max(abs(place - other)) < _NEAR for other in named):
                named.append(place)
                _draw_name(axes, chart, line, x, point, page=page)


def _draw_line(
    axes: Axes, line: Line, axis: SizeAxis, known: Sequence[tuple[float, Point]], *, page: bool
) -> None:
    places, values = [x for x, _ in known], [point.value for _, point in known]
    errors = [point.stderr or 0.0 for _, point in known]
    color, marker = line.style.color, line.style.marker
    dash = line.style.dash if line.key.connected else "none"
    # The first line is on top, and families above all others.
    zorder = (3 if line.key.kind == "family" else 2) - line.index / 1000
    look: Any = {"color": color, "linestyle": dash, "linewidth": 2, "marker": marker}
    if page:
        # All bars in one path: errorbar makes a path of each, and the page larger and slower.
        ends = [(v - e, v + e, math.nan) for v, e in zip(values, errors, strict=True)]
        bars = [(x, y) for x, mine in zip(places, ends, strict=True) for y in mine]
        if any(errors):
            axes.plot(*zip(*bars, strict=True), color=color, linewidth=1, zorder=zorder)
        # Marks on the page are small: without an edge a cross looks like a square.
        look |= {"markersize": 8, "markeredgecolor": "white", "zorder": zorder + 0.1}
        drawn: Any = axes.plot(places, values, **look)
    else:
        yerr = errors if any(errors) else None
        look |= {"markersize": 6, "elinewidth": 1, "capsize": 3, "zorder": zorder}
        drawn = axes.errorbar(places, values, yerr, label=_printable(line.label), **look)
    drawn[0].set_gid(line_id(line, axis))
    hollow = [(x, point.value) for x, point in known if point.is_noise]
    if hollow:
        axes.plot(
            *zip(*hollow, strict=True),
            color=color,
            linestyle="none",
            marker=marker,
            markersize=6,
            markerfacecolor="white",
            zorder=3.5 - line.index / 1000,
        )


def _draw_end(axes: Axes, line: Line, x: float, point: Point) -> None:
    """A ring around a family's student, a star on its teacher."""
    color, ring = line.style.color, point.name == "student"
    axes.plot(
        [x],
        [point.value],
        marker="o" if ring else "*",
        markersize=12 if ring else 17,
        markerfacecolor="white" if ring else color,
        markeredgecolor=color if ring else "white",
        markeredgewidth=2 if ring else 1,
        linestyle="none",
        zorder=4 - line.index / 1000,
    )


def _draw_name(axes: Axes, chart: Chart, line: Line, x: float, point: Point, *, page: bool) -> None:
    end = line.key.kind == "family"
    name = f"{point.name}\n{point.layers} layers" if end and not page else point.name
    if page and len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 1]}…"
    # Above the better line there is nothing, so names go there.
    up = end and lower_is_better(chart.metric) is False
    # Away from the line, which runs to the other end.
    side = {"student": "right", "teacher": "left"}[point.name] if page and end else "center"
    aside = {"right": 8, "left": -8, "center": 0}[side]
    axes.annotate(
        _printable(name),
        (x, point.value),
        xytext=(aside, (12 if up else -12) if end else -8),
        textcoords="offset points",
        ha=side,
        va="bottom" if up else "top",
        fontsize=10,
        color="0.25",
        # Letters with an outline would be drawn as paths; the page's style sheet draws its own.
        path_effects=None if page else _HALO,
        gid="name-" + line.key.kind,
        zorder=5,
    )


def _printable(name: str) -> str:
    """A name without the characters that an SVG file cannot hold."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in name)


def draw_value_axis(axes: Axes, chart: Chart) -> None:
    """Give the vertical axis limits with room for errors and names; a log scale where needed."""
    low = min(point.value - (point.stderr or 0.0) for point in chart.points)
    high = max(point.value + (point.stderr or 0.0) for point in chart.points)
    under, over = (0.08, 0.24) if lower_is_better(chart.metric) is False else (0.24, 0.08)
    axes.yaxis.grid(True, color="0.9")
    axes.set_axisbelow(True)
    if not chart.is_log:
        axes.set_yscale("linear")
        span = (high - low) or abs(high) or 1.0
        axes.set_ylim(low - under * span, high + over * span)
        return
    axes.set_yscale("log")
    span = high / low
    axes.set_ylim(low / span**under, high * span**over)
    # Few decades need more marks than 1, 10, 100 to read a value off.
    fine, middle = (1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5)
    marks = fine if span < 10 else middle if span < 1000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
