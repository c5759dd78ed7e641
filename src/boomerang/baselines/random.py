"""The control for the initialisation: a student distilled from random weights.

Such a student gains nothing from patching (a baseline of arXiv 2510.05064): both the start from
teacher layers and the distillation are needed. It is a checkpoint like any other, made by
`init_student(..., random=True)` and distilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.sources import Source
from ..evaluate import evaluate_sources
from ..evaluate.results import Row
from ..layers import Order

if TYPE_CHECKING:
    from .bench import Bench

SERIES = "random"


def run(
    bench: Bench,
    results: str | Path,
    *,
    layers: Sequence[int] | None = None,
    order: Order | None = None,
    **settings: Any,
) -> list[Row]:
    """Measure the family of a student distilled from random weights, which is the bench's student.

    Arguments and errors are those of `naive.run`.
    """
    assert bench.sources.student is not None
    # The bench needs no weights of a student.
    trust = bench.sources.teacher.trust_remote_code
    control = Source.open(bench.sources.student.reference, trust_remote_code=trust)
    order = bench.sources.order if order is None else order
    return evaluate_sources(
        replace(bench.sources, student=control),
        results,
        series=SERIES,
        members=bench.members(layers, order),
        order=order,
        **bench.loading,
        **settings,
    )
