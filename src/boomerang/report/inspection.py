"""An inspection as tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..layers import LayerMap
from ..orders.inspection import Inspection, Patched


def inspection_tables(inspection: Inspection) -> list[Table]:
    """The teacher layer by layer, and with a student its layers and its members.

    Args:
        inspection: What was measured.
    """
    tables = [_teacher(inspection)]
    if inspection.student is not None:
        tables += [_student(inspection), _orders(inspection)]
    return tables


def _teacher(inspection: Inspection) -> Table:
    table = _table("Each teacher layer: the state before it against the state after it")
    for heading in ("layer", "cosine", "relative squared error", "keep"):
        table.add_column(heading, justify="right")
    for layer, (cosine, error) in enumerate(inspection.teacher.of_pairs()):
        kept = "yes" if layer in inspection.keep.choice else ""
        table.add_row(str(layer), f"{cosine:.4f}", f"{error:.4f}", kept)
    return table


def _student(inspection: Inspection) -> Table:
    assert inspection.student is not None
    table = _table(
        "Each student layer: its output against its block's, and what patching it alone does"
    )
    headings = ("layer", "block", "cosine", "relative squared error", "perplexity", "KL to teacher")
    for heading in headings:
        table.add_column(heading, justify="right")
    student, teacher = inspection.ends
    layers: LayerMap = student.member.layers
    table.add_row("none", "", "", "", *_prediction(student))
    measured = zip(inspection.student.of_pairs(), inspection.alone, strict=True)
    for layer, ((cosine, error), patched) in enumerate(measured):
        block = layers.blocks[layer]
        span = str(block.start) if len(block) == 1 else f"{block.start}-{block.stop - 1}"
        table.add_row(str(layer), span, f"{cosine:.4f}", f"{error:.4f}", *_prediction(patched))
    table.add_row("all", "", "", "", *_prediction(teacher))
    return table


def _orders(inspection: Inspection) -> Table:
    table = _table("Members along each order")
    for heading in ("order", "patch", "layers", "perplexity", "KL to teacher"):
        table.add_column(heading, justify="right")
    for patched in inspection.orders:
        member = patched.member
        table.add_row(
            member.order, str(member.patch), str(member.num_layers), *_prediction(patched)
        )
    return table


def _prediction(patched: Patched) -> tuple[str, str]:
    return f"{patched.prediction.perplexity:.2f}", f"{patched.prediction.kl:.4f}"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        show_edge=False,
    )
