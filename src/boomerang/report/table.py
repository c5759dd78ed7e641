"""The members of a family side by side, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluate.results import BITS_PER_BYTE, DIFFERENCE, FAMILY, PERPLEXITY, Row
from ..units import show_count_briefly
from .curves import Curve, curves, only_task
from .metrics import NOISE
from .seeds import shown
from .task_table import task_tables


def member_tables(rows: Sequence[Row], *, task: str | None = None) -> list[Table]:
    """One table for each curve of the family, the baselines beside it.

    A difference to the member before that is less than 1.96 paired standard errors is marked `~`:
    it may well be noise.

    Args:
        rows: Rows of any series.
        task: The task; may be left out when the rows are of one task only.

    Returns:
        Tables for `rich.console.Console.print`.

    Raises:
        ResultsError: No rows of this task, or several tasks and none named.
    """
    rows = shown(rows)
    return _member_tables(rows, only_task(rows) if task is None else task)


def _member_tables(rows: Sequence[Row], task: str) -> list[Table]:
    lines = curves(rows, task=task, metric=PERPLEXITY)
    values = {row.key: row for row in rows}
    family = [line for line in lines if line.series == FAMILY]
    return [_table(line, task, values, _beside(line, lines)) for line in family or lines]


def all_tables(rows: Sequence[Row]) -> list[Table]:
    """Tables of every task: each text by itself, the tasks of lm-evaluation-harness side by side.

    Args:
        rows: Rows of any series.
    """
    rows = shown(rows)
    found = {row.measure for row in rows}
    texts = [
        task for task, metric in found if metric == PERPLEXITY and (task, BITS_PER_BYTE) in found
    ]
    tables = [
        table
        for task in dict.fromkeys(row.task for row in rows)
        if task in texts
        for table in _member_tables(rows, task)
    ]
    return tables + task_tables([row for row in rows if row.task not in texts])


def _beside(line: Curve, lines: Sequence[Curve]) -> list[Curve]:
    """The baselines measured along the same order, of the same teacher."""
    mine = line.rows[0]
    return [
        other
        for other in lines
        if other.series not in (FAMILY, line.series)
        and (other.rows[0].order, other.rows[0].teacher) == (mine.order, mine.teacher)
    ]


def _table(
    line: Curve, task: str, values: dict[tuple[object, ...], Row], baselines: Sequence[Curve]
) -> Table:
    order = line.rows[0].order
    table = Table(
        title=Text(f"{line.name} on {task}" + (f", patched {order}" if order else "")),
        caption=f"± one standard error; ~ a change of less than {NOISE} paired standard errors",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        show_edge=False,
    )
    # Two baselines and the bytes do not fit into 80 columns together.
    sizes = ["params", "bytes"] if len(baselines) < 2 else ["params"]
    for heading in ("patch", "layers", *sizes, "perplexity", "bits/byte", "change "):
        table.add_column(heading, justify="right", no_wrap=True)
    for baseline in baselines:
        table.add_column(Text(baseline.series), justify="right", no_wrap=True)
    table.add_column("patched")
    for row in line.rows:
        bits = values.get(_key(row, BITS_PER_BYTE))
        change = values.get(_key(row, DIFFERENCE))
        name = "student" if row is line.student else "teacher" if row is line.teacher else ""
        table.add_row(
            str(row.patch),
            str(row.num_layers),
            *[show_count_briefly(row.parameters), _bytes(row.bytes)][: len(sizes)],
            f"{row.value:.2f}{_error(row)}",
            "-" if bits is None else f"{bits.value:.3f}",
            _change(change),
            *(_same_member(baseline, row) for baseline in baselines),
            name or _ranges(row.member),
        )
    return table


def _key(row: Row, metric: str) -> tuple[object, ...]:
    return row.model_copy(update={"metric": metric}).key


def _same_member(line: Curve, row: Row) -> str:
    values = (f"{other.value:.2f}" for other in line.rows if other.member == row.member)
    return next(values, "-")


def _change(row: Row | None) -> str:
    if row is None:
        return "- "
    noise = row.stderr is not None and abs(row.value) < NOISE * row.stderr
    return f"{row.value:+.2f}{_error(row)}{'~' if noise else ' '}"


def _error(row: Row) -> str:
    return "" if row.stderr is None else f" ± {row.stderr:.2f}"


def _bytes(count: int) -> str:
    value, power, units = float(count), 0, (" B", " KiB", " MiB", " GiB")
    while value >= 1024 and power < len(units) - 1:
        value, power = value / 1024, power + 1
    digits = 0 if power == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f}{units[power]}"


def _ranges(layers: Sequence[int]) -> str:
    """0, 1, 2, 5 as `0-2, 5`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
