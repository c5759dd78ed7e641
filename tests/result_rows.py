"""Rows of results as an evaluation writes them, for tests of what is made of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boomerang import LayerMap
from boomerang.evaluate.results import RESULTS_FILE, Row, append_results

LAYERS = LayerMap.every(2, 8)
FAMILY = [20.0, 19.9, 18.5, 18.0]
NAIVE = [60.0, 45.0, 30.0, 18.0]
RANDOM = [40.0, 80.0, 200.0, 18.0]


def metric_rows(
    series: str, metric: str, values: Sequence[float], layers: LayerMap = LAYERS, **changes: Any
) -> list[Row]:
    """A metric (standard error 0.5) and its differences (0.2) of every member, student first."""
    order = changes.pop("order", "last-to-first")
    rows = []
    previous: float | None = None
    for member, value in zip(layers.members(order), values, strict=True):
        fields = {
            "member": member.patched,
            "patch": member.patch,
            "order": order,
            "num_layers": member.num_layers,
            "parameters": 500_000 * member.num_layers,
            "bytes": 2_000_000 * member.num_layers,
            "task": "books",
            "stderr": 0.5,
            "items": 100,
            "teacher": "t",
            "student": series,
            "series": series,
        } | changes
        rows.append(Row(metric=metric, value=value, **fields))
        if previous is not None:
            fields["stderr"] = 0.2
            rows.append(Row(metric=f"{metric}_difference", value=value - previous, **fields))
        previous = value
    return rows


def text_rows(series: str, values: Sequence[float], **changes: Any) -> list[Row]:
    """Perplexity with its differences, and bits per byte, of every member."""
    bits = [value / 10 for value in values]
    rows = metric_rows(series, "bits_per_byte", bits, **({"stderr": 0.01} | changes))
    return [
        *metric_rows(series, "perplexity", values, **changes),
        *[row for row in rows if row.metric == "bits_per_byte"],
    ]


def write_results(directory: Path, rows: Sequence[Row]) -> Path:
    """A results directory that holds rows and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    append_results(directory / RESULTS_FILE, rows)
    return directory
