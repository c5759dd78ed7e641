"""Tasks side by side, a line for each member."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluate.results import Row
from .metrics import NOISE

# As many as fit into 80 columns beside the member.
_MEASURES = 4

_DIFFERENCE = "_difference"


def task_tables(rows: Sequence[Row]) -> list[Table]:
    """Every metric of every task, four to a table, for each series and order.

    A value whose change from the size before is less than 1.96 paired standard errors is marked
    `~`: the change may well be noise.

    Args:
        rows: Rows that hold, one for all seeds.

    Returns:
        Tables for `rich.console.Console.print`.
    """
    lines: dict[tuple[str, str | None, str], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.series, row.order, row.teacher), []).append(row)
    return [
        _table(line, measures[start : start + _MEASURES])
        for line in lines.values()
        for measures in [_measures(line)]
        for start in range(0, len(measures), _MEASURES)
    ]


def _measures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = dict.fromkeys(row.measure for row in rows)
    return [measure for measure in found if not measure[1].endswith(_DIFFERENCE)]


def _table(rows: Sequence[Row], measures: Sequence[tuple[str, str]]) -> Table:
    first = rows[0]
    table = Table(
        title=Text(first.series + (f", patched {first.order}" if first.order else "")),
        caption=f"± one standard error; ~ a change of less than {NOISE} paired standard errors",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        show_edge=False,
    )
    for heading in ("patch", "layers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for task, metric in measures:
        table.add_column(Text(f"{task}\n{metric} "), justify="right", overflow="fold")
    values = {(row.member, *row.measure): row for row in rows}
    members = {row.member: row for row in sorted(rows, key=lambda r: (r.num_layers, r.parameters))}
    for member, row in members.items():
        cells = [
            _cell(
                values.get((member, task, metric)),
                values.get((member, task, metric + _DIFFERENCE)),
            )
            for task, metric in measures
        ]
        table.add_row(str(row.patch), str(row.num_layers), *cells)
    return table


def _cell(row: Row | None, change: Row | None) -> str:
    if row is None:
        return "- "
    error = "" if row.stderr is None else f" ± {row.stderr:.2g}"
    value = f"{row.value:.3f}" if abs(row.value) < 10 else f"{row.value:.4g}"
    return f"{value}{error}{'~' if change is not None and _is_noise(change) else ' '}"


def _is_noise(change: Row) -> bool:
    return change.stderr is not None and abs(change.value) < NOISE * change.stderr
