"""Naive pruning: the student's layers without any training.

The control for the distillation (a baseline of arXiv 2510.05064): blocks of teacher layers are put
back into the untouched cut of the teacher, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.measure import measure
from ..evaluate.options import Measure
from ..evaluate.results import Row
from ..family import Family
from ..hashing import short_hash
from ..layers import LayerMap, Order
from ..student import cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .bench import Bench

SERIES = "naive"


def run(
    bench: Bench,
    results: str | Path,
    *,
    layers: Sequence[int] | None = None,
    order: Order | None = None,
    **settings: Any,
) -> list[Row]:
    """Measure naive pruning.

    The `student` of the rows is a hash of the teacher's hash and the kept layers, since no student
    is on disk.

    Args:
        bench: The family it is compared with.
        results: The directory of the family's own evaluation, or a new one.
        layers: The sizes to measure, as numbers of layers; by default those of the family.
        order: The order of patching; by default the family's.
        **settings: What to measure on, the fields of `evaluate.options.Measure`.

    Returns:
        The rows, measured before or now.

    Raises:
        BoomerangError: As in `boomerang.evaluate`.
    """
    what, teacher, kept = Measure.of(settings), bench.sources.teacher, bench.sources.layers
    order = bench.sources.order if order is None else order
    members = bench.members(layers, order)
    with bench.writing(results):
        return measure(
            naive_family(bench.model, kept),
            results,
            what,
            tokenizer=teacher.tokenizer,
            teacher_hash=teacher.content_hash,
            student_hash=cut_hash(teacher.content_hash, kept),
            series=SERIES,
            members=members,
            order=order,
        )


def naive_family(teacher: PreTrainedModel, layers: LayerMap) -> Family:
    """The family of a live teacher and its untrained cut, over the teacher's own tensors."""
    return Family(teacher, cut(teacher, layers), layers)


def cut_hash(teacher_hash: str, layers: LayerMap) -> str:
    """What stands for the untrained cut of a teacher in place of a student's content hash."""
    return short_hash(f"{teacher_hash} cut {layers.kept}")
