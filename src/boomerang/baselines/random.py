"""The control for the initialisation: a student distilled from random weights.

A randomly initialised student, distilled like the real one, gains nothing from patching (a baseline
of arXiv 2510.05064): both the initialisation from teacher layers and the distillation are needed.
Such a student is an ordinary checkpoint, made by `init_student(..., random=True)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint.sources import Sources
from ..evaluate import evaluate_sources
from ..evaluate.results import Row

SERIES = "random"


def evaluate_random(sources: Sources, out: str | Path, **settings: Any) -> list[Row]:
    """Measure the family of a randomly initialised student, as rows of the series `random`.

    Args:
        sources: The teacher, and the control that was distilled from random weights.
        out: The output directory; with the same settings, the one of the family's own evaluation.
        **settings: As for `boomerang.evaluate`.

    Raises:
        BoomerangError: As in `boomerang.evaluate`.
    """
    return evaluate_sources(sources, out, series=SERIES, **settings)
