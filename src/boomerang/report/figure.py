"""Size against quality, as a figure for a README or a paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..errors import OutputError
from ..evaluate.results import FAMILY, Row
from .curves import Curve, curves

# Okabe and Ito's palette, which the colour-blind can tell apart; line and marker differ as well.
_FAMILY_STYLES = [("#0072B2", "-", "o"), ("#009E73", "-", "D"), ("#56B4E9", "-", "v")]
_BASELINE_STYLES = {"naive": ("#D55E00", "--", "s"), "random": ("#CC79A7", ":", "^")}
_OTHER_STYLES = [("#E69F00", "-.", "P"), ("#000000", "-.", "X"), ("#999999", "-.", "h")]

_LABELS = {"perplexity": "Perplexity", "bits_per_byte": "Bits per byte"}
_LOWER_IS_BETTER = set(_LABELS)

# From this ratio of the largest value to the smallest on, a linear axis hides what matters below.
_LOG_FROM = 2.5

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
    metric: str = "perplexity",
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
    lines = curves(rows, task=task, metric=metric)
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    with matplotlib.rc_context(_RC):
        figure = _draw(lines, title)
        _save(figure, png)
        _save(figure, svg, metadata={"Date": None})
    return png, svg


def _save(figure: Figure, path: Path, **options: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(partial, format=path.suffix[1:], **options)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=path) from None


def _draw(lines: Sequence[Curve], title: str | None) -> Figure:
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    unit, name = _size_unit(max(row.parameters for line in lines for row in line.rows))
    styles = _styles(lines)
    for line, style in zip(lines, styles, strict=True):
        _draw_curve(axes, line, style, unit)
    _mark_ends(axes, lines, styles, unit)
    _label(axes, lines[0].rows[0], name)
    _scale(axes, [row.value for line in lines for row in line.rows])
    if title is not None:
        axes.set_title(title)
    axes.legend(frameon=False, handlelength=3)
    return figure


def _draw_curve(axes: Axes, line: Curve, style: tuple[str, str, str], unit: float) -> None:
    color, dash, marker = style
    axes.errorbar(
        [row.parameters / unit for row in line.rows],
        [row.value for row in line.rows],
        yerr=[row.stderr or 0.0 for row in line.rows],
        color=color,
        linestyle=dash if line.rows[0].order else "none",  # a free set of blocks is on no path
        marker=marker,
        markersize=6,
        linewidth=2,
        elinewidth=1,
        capsize=3,
        label=line.label,
        zorder=3 if line.series == FAMILY else 2,
    )


def _mark_ends(
    axes: Axes, lines: Sequence[Curve], styles: Sequence[tuple[str, str, str]], unit: float
) -> None:
    """A ring around the family's student, a star on the teacher, each with its name."""
    for end, marker, size in (("student", "o", 12.0), ("teacher", "*", 17.0)):
        for line, (color, _, _) in zip(lines, styles, strict=True):
            row: Row | None = getattr(line, end)
            if row is None or line.series != FAMILY:
                continue
            axes.plot(
                [row.parameters / unit],
                [row.value],
                marker=marker,
                markersize=size,
                markerfacecolor="white" if end == "student" else color,
                markeredgecolor=color if end == "student" else "white",
                markeredgewidth=2 if end == "student" else 1,
                linestyle="none",
                zorder=4,
            )
            axes.annotate(
                f"{end}\n{row.num_layers} layers",
                (row.parameters / unit, row.value),
                xytext=(0, -12),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=10,
                color="0.25",
            )
            break


def _label(axes: Axes, row: Row, unit: str) -> None:
    metric = _LABELS.get(row.metric, row.metric.replace("_", " "))
    hint = " (lower is better)" if row.metric in _LOWER_IS_BETTER else ""
    axes.set_xlabel(f"Parameters ({unit})")
    axes.set_ylabel(f"{metric} on {row.task}{hint}")
    axes.grid(True, color="0.9")
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Limits with room below for the names of student and teacher; a log scale where needed."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < _LOG_FROM:
        span = (high - low) or abs(high) or 1.0
        axes.set_ylim(low - 0.24 * span, high + 0.08 * span)
        return
    axes.set_yscale("log")
    span = high / low
    axes.set_ylim(low / span**0.24, high * span**0.08)
    # Few decades need more marks than 1, 10, 100 to read a value off.
    marks = (1, 1.5, 2, 3, 4, 5, 6, 8) if span < 10 else (1, 2, 5) if span < 1000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _size_unit(parameters: int) -> tuple[float, str]:
    return (1e9, "billions") if parameters >= 1e9 else (1e6, "millions")


def _styles(lines: Sequence[Curve]) -> list[tuple[str, str, str]]:
    """A colour, line and marker for each curve: fixed for the usual ones, the rest in turn."""
    styles = []
    family, other = 0, 0
    for line in lines:
        if line.series == FAMILY:
            styles.append(_FAMILY_STYLES[family % len(_FAMILY_STYLES)])
            family += 1
        elif line.series in _BASELINE_STYLES:
            styles.append(_BASELINE_STYLES[line.series])
        else:
            styles.append(_OTHER_STYLES[other % len(_OTHER_STYLES)])
            other += 1
    return styles
