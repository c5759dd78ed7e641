"""Similarity of states between layers, as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import OutputError
from ..orders.inspection import Inspection
from ..orders.similarity import Similarity
from .figure import save_picture

_SUFFIXES = (".png", ".svg", ".pdf")
_RC: Any = {"font.size": 10, "svg.fonttype": "path", "svg.hashsalt": "boomerang"}


def save_heatmap(inspection: Inspection, path: str | Path) -> Path:
    """Draw the mean cosines of an inspection; pairs that belong together have a dot.

    Args:
        inspection: What to draw: the teacher's states among themselves, and beside them the
            student's against the teacher's if there is a student.
        path: The file, `.png`, `.svg` or `.pdf`; an existing one is replaced.

    Raises:
        OutputError: Another suffix, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    panels = [(inspection.teacher, "teacher")]
    if inspection.student is not None:
        panels.append((inspection.student, "student"))
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.5 * len(panels), 5.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (states, who) in zip(all_axes, panels, strict=True):
            _draw(figure, axes, states, who)
        save_picture(figure, path)
    return path


def check_suffix(path: Path) -> None:
    """Refuse a file that is of no known kind.

    Raises:
        OutputError: It is.
    """
    if path.suffix not in _SUFFIXES:
        raise OutputError("is no figure", where=path, fix=f"end the name in {', '.join(_SUFFIXES)}")


def _draw(figure: Figure, axes: Axes, states: Similarity, who: str) -> None:
    image = axes.imshow(states.cosine, origin="lower", cmap="cividis", vmax=1, aspect="auto")
    rows, columns = zip(*states.pairs, strict=True)
    axes.plot(columns, rows, ".", color="white", markeredgecolor="black", markeredgewidth=0.5)
    axes.set_xlabel("teacher: state after so many layers")
    axes.set_ylabel(f"{who}: state after so many layers")
    axes.set_title("before and after each layer" if who == "teacher" else "student against teacher")
    figure.colorbar(image, ax=axes, label="mean cosine")
