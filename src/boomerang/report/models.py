"""Models that stand alone, one a line, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluate.results import Row
from ..units import show_bytes, show_count


def model_table(rows: Sequence[Row]) -> Table:
    """One line for each model, one column for each metric of each task.

    Args:
        rows: Rows of models that stand alone; of a metric measured twice the last value is shown.
    """
    measures = list(dict.fromkeys(row.measure for row in rows))
    table = Table(box=SIMPLE_HEAD, padding=0, collapse_padding=True, show_edge=False)
    table.add_column("method")
    for heading in ("layers", "params", "bytes", *(f"{m} {t}" for t, m in measures)):
        table.add_column(Text(heading), justify="right")
    models: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        models.setdefault(row.student, {})[row.measure] = row
    for values in models.values():
        row = next(iter(values.values()))
        size = (str(row.num_layers), show_count(row.parameters), show_bytes(row.bytes))
        cells = (_value(values.get(measure)) for measure in measures)
        table.add_row(Text(row.series), *size, *cells)
    return table


def _value(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row.value:.3f}" + ("" if row.stderr is None else f" ± {row.stderr:.3f}")
