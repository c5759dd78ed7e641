"""Results as tables for the terminal: members side by side, tasks side by side, single models."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluate.results import BITS_PER_BYTE, DIFFERENCE, FAMILY, PERPLEXITY, Row
from ..units import show_bytes, show_count, show_count_briefly
from .lines import Curve, curves, only_task
from .metrics import NOISE, difference_of, is_difference, is_noise
from .sources import shown

# As many as fit into 80 columns beside the member.
_MEASURES = 4

_CAPTION = f"± one standard error; ~ a change of less than {NOISE} paired standard errors"


def plain_table(title: str | Text | None = None, caption: str | None = None) -> Table:
    """A table without frames, as all of this package's."""
    return Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        show_edge=False,
    )


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
    return [
        _member_table(line, task, values, _baselines_of(line, lines)) for line in family or lines
    ]


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
    return tables + _task_tables([row for row in rows if row.task not in texts])


def _baselines_of(line: Curve, lines: Sequence[Curve]) -> list[Curve]:
    """The baselines measured along the same order, of the same teacher."""
    mine = line.rows[0]
    return [
        other
        for other in lines
        if other.series not in (FAMILY, line.series)
        and (other.rows[0].order, other.rows[0].teacher) == (mine.order, mine.teacher)
    ]


def _member_table(
    line: Curve, task: str, values: dict[tuple[object, ...], Row], baselines: Sequence[Curve]
) -> Table:
    order = line.rows[0].order
    table = plain_table(
        Text(f"{line.name} on {task}" + (f", patched {order}" if order else "")),
        _CAPTION,
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
    noise = is_noise(row.value, row.stderr)
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


def _task_tables(rows: Sequence[Row]) -> list[Table]:
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
        _task_table(line, measures[start : start + _MEASURES])
        for line in lines.values()
        for measures in [_measures(line)]
        for start in range(0, len(measures), _MEASURES)
    ]


def _measures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = dict.fromkeys(row.measure for row in rows)
    return [measure for measure in found if not is_difference(measure[1])]


def _task_table(rows: Sequence[Row], measures: Sequence[tuple[str, str]]) -> Table:
    first = rows[0]
    table = plain_table(
        Text(first.series + (f", patched {first.order}" if first.order else "")),
        _CAPTION,
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
                values.get((member, task, difference_of(metric))),
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
    noise = change is not None and is_noise(change.value, change.stderr)
    return f"{value}{error}{'~' if noise else ' '}"


def model_table(rows: Sequence[Row]) -> Table:
    """One line for each model, one column for each metric of each task.

    Args:
        rows: Rows of models that stand alone; of a metric measured twice the last value is shown.
    """
    measures = list(dict.fromkeys(row.measure for row in rows))
    table = plain_table()
    table.add_column("method")
    for heading in ("layers", "params", "bytes", *(f"{m} {t}" for t, m in measures)):
        table.add_column(Text(heading), justify="right")
    models: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        models.setdefault(row.student, {})[row.measure] = row
    for values in models.values():
        row = next(iter(values.values()))
        size = (str(row.num_layers), show_count(row.parameters), show_bytes(row.bytes))
        cells = (_model_value(values.get(measure)) for measure in measures)
        table.add_row(Text(row.series), *size, *cells)
    return table


def _model_value(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row.value:.3f}" + ("" if row.stderr is None else f" ± {row.stderr:.3f}")
