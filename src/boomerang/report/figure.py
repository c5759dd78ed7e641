"""Size against quality, as a figure for a README or a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..errors import OutputError
from ..evaluate.results import PERPLEXITY, Row
from .charts import Chart, one_chart
from .lines import Line, Point
from .metrics import better, label, lower_is_better
from .scale import count_unit, log_marks, needs_log

# Around names, so that lines behind them do not cross the letters.
_HALO = [withStroke(linewidth=3, foreground="white")]

_RC: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names may hold a dollar sign
    "svg.fonttype": "path",  # looks the same wherever it is opened
    "svg.hashsalt": "boomerang",  # the same rows make the same bytes
}


def save_figure(
    rows: Sequence[Row],
    stem: str | Path,
    *,
    task: str | None = None,
    metric: str = PERPLEXITY,
    title: str | None = None,
) -> tuple[Path, Path]:
    """Draw size against quality and write it as PNG and SVG.

    Args:
        rows: Rows of any series; the family, naive pruning and other baselines become curves.
        stem: Path of the two files without their suffix; existing files are replaced.
        task: The task; may be left out when the rows are of one task only.
        metric: The metric on the vertical axis.
        title: A heading; by default none.

    Returns:
        The paths of the PNG (1600 pixels wide) and the SVG (text as paths, no outside fonts).

    Raises:
        ResultsError: No rows of this task and metric, or several tasks and none named.
        OutputError: The files cannot be written.
    """
    return save_chart(one_chart(rows, task=task, metric=metric), stem, title=title)


def save_chart(chart: Chart, stem: str | Path, *, title: str | None = None) -> tuple[Path, Path]:
    """Draw a chart of a report; the arguments and errors are otherwise those of `save_figure`."""
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    with matplotlib.rc_context(_RC):
        figure = _draw(chart, title)
        save_picture(figure, png)
        save_picture(figure, svg)
    return png, svg


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its name's ending, whole or not at all.

    Args:
        figure: What to write.
        path: `.png` or `.svg`; parent directories are made.

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


def _draw(chart: Chart, title: str | None) -> Figure:
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [point for line in chart.lines for point in line.points]
    unit, name = count_unit(max(point.parameters for point in points))
    # Above the better line there is nothing, so names of its ends go there.
    above = lower_is_better(chart.metric) is False
    for line in chart.lines:
        _draw_line(axes, line, unit)
    for end, marker, size in (("student", "o", 12.0), ("teacher", "*", 17.0)):
        _mark_end(axes, chart.lines, end, (marker, size), unit, above=above)
    _label(axes, chart, name)
    _scale(axes, points, chart.metric, above=above)
    if title is not None:
        axes.set_title(title)
    figure.legend(
        loc="outside upper left", ncols=min(3, len(chart.lines)), frameon=False, handlelength=3
    )
    return figure


def _draw_line(axes: Axes, line: Line, unit: float) -> None:
    axes.errorbar(
        [point.parameters / unit for point in line.points],
        [point.value for point in line.points],
        yerr=[point.stderr or 0.0 for point in line.points],
        color=line.style.light,
        linestyle=line.style.dash if line.connected else "none",
        marker=line.style.marker,
        markersize=6,
        linewidth=2,
        elinewidth=1,
        capsize=3,
        label=line.label,
        zorder=3 if line.kind == "family" else 2,
    )
    hollow = [point for point in line.points if point.is_noise]
    axes.plot(
        [point.parameters / unit for point in hollow],
        [point.value for point in hollow],
        color=line.style.light,
        linestyle="none",
        marker=line.style.marker,
        markersize=6,
        markerfacecolor="white",
        zorder=3.5,
    )
    if line.kind == "external":
        for point in line.points:
            axes.annotate(
                point.name,
                (point.parameters / unit, point.value),
                xytext=(0, -8),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=10,
                color="0.25",
                path_effects=_HALO,
            )


def _mark_end(
    axes: Axes,
    lines: Sequence[Line],
    end: str,
    mark: tuple[str, float],
    unit: float,
    *,
    above: bool,
) -> None:
    """A ring around the first family's student, a star on its teacher, each with its name."""
    families = (line for line in lines if line.kind == "family")
    ends = ((line, point) for line in families for point in line.points if point.name == end)
    line, point = next(ends, (None, None))
    if line is None or point is None:
        return
    marker, size = mark
    color, ring = line.style.light, end == "student"
    axes.plot(
        [point.parameters / unit],
        [point.value],
        marker=marker,
        markersize=size,
        markerfacecolor="white" if ring else color,
        markeredgecolor=color if ring else "white",
        markeredgewidth=2 if ring else 1,
        linestyle="none",
        zorder=4,
    )
    axes.annotate(
        f"{end}\n{point.layers} layers",
        (point.parameters / unit, point.value),
        xytext=(0, 12 if above else -12),
        textcoords="offset points",
        ha="center",
        va="bottom" if above else "top",
        fontsize=10,
        color="0.25",
        path_effects=_HALO,
    )


def _label(axes: Axes, chart: Chart, unit: str) -> None:
    hint = better(chart.metric)
    joint = ", " if chart.averaged else " on "
    what = f"{label(chart.metric)}{joint}{chart.task}"
    axes.set_xlabel(f"Parameters ({unit})")
    # The axis is about 45 letters high.
    space = "\n" if len(what) + len(hint) > 42 else " "
    axes.set_ylabel(f"{what}{space}({hint})" if hint else what)
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _scale(axes: Axes, points: Sequence[Point], metric: str, *, above: bool) -> None:
    """Limits with room for errors and for the ends' names; a log scale where needed."""
    low = min(point.value - (point.stderr or 0.0) for point in points)
    high = max(point.value + (point.stderr or 0.0) for point in points)
    under, over = (0.08, 0.24) if above else (0.24, 0.08)
    values = [point.value for point in points]
    if low <= 0 or not needs_log(values, lower_is_better(metric)):
        span = (high - low) or abs(high) or 1.0
        axes.set_ylim(low - under * span, high + over * span)
        return
    axes.set_yscale("log")
    span = high / low
    axes.set_ylim(low / span**under, high * span**over)
    axes.yaxis.set_major_locator(LogLocator(subs=log_marks(span)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
