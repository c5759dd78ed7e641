"""An inspection as tables for the terminal, and as a figure of similar states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from ..errors import OutputError
from ..orders.inspection import Inspection, Patched
from ..orders.similarity import Similarity
from .figure import save_picture
from .table import plain_table

_SUFFIXES = (".png", ".svg", ".pdf")
_RC: Any = {"font.size": 10, "svg.fonttype": "path", "svg.hashsalt": "boomerang"}


def inspection_tables(inspection: Inspection) -> list[Table]:
    """The teacher layer by layer, and with a student its layers and its members."""
    tables = [_teacher(inspection)]
    if inspection.student is not None:
        tables += [_student(inspection, inspection.student), _orders(inspection)]
    return tables


def _teacher(inspection: Inspection) -> Table:
    title = "Each teacher layer: the state before it against the state after it"
    table = plain_table(title, "layer", "cosine", "relative squared error", "keep")
    for layer, (cosine, error) in enumerate(inspection.teacher.of_pairs()):
        kept = "yes" if layer in inspection.keep.choice else ""
        table.add_row(str(layer), f"{cosine:.4f}", f"{error:.4f}", kept)
    return table


def _student(inspection: Inspection, similarity: Similarity) -> Table:
    title = "Each student layer: its output against its block's, and what patching it alone does"
    likeness = ("layer", "block", "cosine", "relative squared error")
    table = plain_table(title, *likeness, "perplexity", "KL to teacher")
    student, teacher = inspection.ends
    blocks = student.member.layers.blocks
    table.add_row("none", "", "", "", *_prediction(student))
    measured = zip(similarity.of_pairs(), inspection.alone, blocks, strict=True)
    for layer, ((cosine, error), patched, block) in enumerate(measured):
        span = str(block.start) if len(block) == 1 else f"{block.start}-{block.stop - 1}"
        table.add_row(str(layer), span, f"{cosine:.4f}", f"{error:.4f}", *_prediction(patched))
    table.add_row("all", "", "", "", *_prediction(teacher))
    return table


def _orders(inspection: Inspection) -> Table:
    headings = ("order", "patch", "layers", "perplexity", "KL to teacher")
    table = plain_table("Members along each order", *headings)
    for patched in inspection.orders:
        member = patched.member
        size = (str(member.patch), str(member.num_layers))
        table.add_row(member.order, *size, *_prediction(patched))
    return table


def _prediction(patched: Patched) -> tuple[str, str]:
    return f"{patched.prediction.perplexity:.2f}", f"{patched.prediction.kl:.4f}"


def save_heatmap(inspection: Inspection, path: str | Path) -> Path:
    """The path of a drawing of mean cosines, which it makes; matching pairs have a dot.

    The teacher's states are drawn among themselves, the student's against the teacher's.

    Raises:
        OutputError: Not `.png`, `.svg` or `.pdf`, or the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    panels = [("teacher", inspection.teacher), ("student", inspection.student)]
    drawn = [(who, states) for who, states in panels if states is not None]
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.5 * len(drawn), 5.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
        for axes, (who, states) in zip(all_axes, drawn, strict=True):
            _draw_similarity(figure, axes, states, who)
        save_picture(figure, path)
    return path


def check_suffix(path: Path) -> None:
    """Refuse a figure file other than `.png`, `.svg` and `.pdf` with an `OutputError`."""
    if path.suffix not in _SUFFIXES:
        raise OutputError("is no figure", where=path, fix=f"end the name in {', '.join(_SUFFIXES)}")


def _draw_similarity(figure: Figure, axes: Axes, states: Similarity, who: str) -> None:
    image = axes.imshow(states.cosine, origin="lower", cmap="cividis", vmax=1, aspect="auto")
    rows, columns = zip(*states.pairs, strict=True)
    axes.plot(columns, rows, ".", color="white", markeredgecolor="black", markeredgewidth=0.5)
    axes.set_xlabel("teacher: state after so many layers")
    axes.set_ylabel(f"{who}: state after so many layers")
    axes.set_title("before and after each layer" if who == "teacher" else "student against teacher")
    figure.colorbar(image, ax=axes, label="mean cosine")
