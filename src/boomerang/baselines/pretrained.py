"""Models that were trained elsewhere, of any supported architecture and with any tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.results import PRETRAINED, Row

if TYPE_CHECKING:
    from .bench import Bench


def run(
    bench: Bench, results: str | Path, *, model: Sequence[str | Path], **settings: Any
) -> list[Row]:
    """Measure models of the user's own: directories or hub ids, with or without `@revision`.

    The other arguments, and errors, are those of `naive.run`.
    """
    # All are looked up before the first is measured.
    models = [bench.checkpoint(PRETRAINED, each, own_tokenizer=True) for each in model]
    return bench.measure(models, results, **settings)
