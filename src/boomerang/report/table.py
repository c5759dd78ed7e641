"""Results as tables for the terminal: members side by side, tasks side by side, single models."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluate.results import BITS_PER_BYTE, PERPLEXITY, Row
from ..units import show_bytes, show_count, show_count_briefly
from .charts import Chart, measured, models
from .series import Line, Point, all_lines, series_name
from .sources import shown
from .words import NOISE, bytes_unit, is_difference

# As many as fit into 80 columns beside the member.
_MEASURES = 4

_CAPTION = f"± one standard error; ~ a change of less than {NOISE} paired standard errors"


def plain_table(title: str | None, *headings: str, caption: str | None = None) -> Table:
    """A table without frames, with columns that stand to the right; nothing in it is markup."""
    table = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
        show_edge=False,
    )
    for heading in headings:
        table.add_column(Text(heading), justify="right", overflow="fold")
    return table


def all_tables(rows: Sequence[Row]) -> list[Table]:
    """Tables of every task: each text by itself, the tasks of lm-evaluation-harness side by side.

    A value whose change from the size below is less than 1.96 paired standard errors is marked `~`:
    the change may well be noise. The rows are in the order of writing, of any series.
    """
    rows = shown(rows)
    lines = all_lines({"results": rows}, {})
    found = dict.fromkeys(row.measure for row in rows if not is_difference(row.metric))
    tables, others = [], dict(found)
    for task in dict.fromkeys(task for task, _ in found):
        text = [(task, PERPLEXITY), (task, BITS_PER_BYTE)]
        if set(text) <= set(found):
            tables += _text_tables(*measured(lines, text))
            others = {measure: None for measure in others if measure[0] != task}
    return tables + [table for line in lines for table in _task_tables(line, list(others))]


def _text_tables(perplexity: Chart, bits: Chart) -> list[Table]:
    """One table for each line of the family, the baselines along the same order beside it."""
    families = [line for line in perplexity.lines if line.key.kind == "family"]
    bits_of = {(line.index, p.model): p.value for line in bits.lines for p in line.points}
    tables = []
    for line in families or perplexity.lines:
        same = [other for other in perplexity.lines if other.key[2:] == line.key[2:]]
        baselines = [other for other in same if other.key.kind == "baseline" and other is not line]
        # Two baselines and the bytes do not fit into 80 columns together.
        sizes = ["params", "bytes"] if len(baselines) < 2 else ["params"]
        table = plain_table(
            f"{series_name(line.key.series)} on {perplexity.task}{_patched(line)}",
            *("patch", "layers", *sizes, "perplexity", "bits/byte", "change "),
            *(baseline.key.series for baseline in baselines),
            caption=_CAPTION,
        )
        table.add_column("patched")
        for point in line.points:
            found = bits_of.get((line.index, point.model))
            table.add_row(
                str(point.patch),
                str(point.layers),
                *[show_count_briefly(point.parameters), _bytes(point.bytes or 0)][: len(sizes)],
                _with_error(point.value, point.stderr),
                "-" if found is None else f"{found:.3f}",
                _change(point),
                *(_same_member(baseline, point) for baseline in baselines),
                point.name or _ranges(point.member or ()),
            )
        tables.append(table)
    return tables


def _patched(line: Line) -> str:
    return f", patched {line.key.order}" if line.key.order else ""


def _same_member(line: Line, point: Point) -> str:
    values = (f"{other.value:.2f}" for other in line.points if other.member == point.member)
    return next(values, "-")


def _change(point: Point) -> str:
    if point.change is None:
        return "- "
    value, stderr = point.change
    return f"{'+' * (value >= 0)}{_with_error(value, stderr)}{'~' if point.is_noise else ' '}"


def _with_error(value: float, stderr: float | None, digits: int = 2) -> str:
    return f"{value:.{digits}f}" + ("" if stderr is None else f" ± {stderr:.{digits}f}")


def _bytes(count: int) -> str:
    """Bytes with three significant digits."""
    divisor, unit = bytes_unit(count)
    value = count / divisor
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def _ranges(layers: Sequence[int]) -> str:
    """0, 1, 2, 5 as `0-2, 5`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _task_tables(line: Line, measures: Sequence[tuple[str, str]]) -> list[Table]:
    """The metrics of one line, four to a table."""
    charts, tables = measured([line], measures), []
    while charts:
        some, charts = charts[:_MEASURES], charts[_MEASURES:]
        heads = (f"{chart.task}\n{chart.metric} " for chart in some)
        title = f"{line.key.series}{_patched(line)}"
        table = plain_table(title, "patch", "layers", *heads, caption=_CAPTION)
        for _, points in models(some):
            first = next(point for point in points if point is not None)
            table.add_row(str(first.patch), str(first.layers), *map(_value, points))
        tables.append(table)
    return tables


def _value(point: Point | None) -> str:
    if point is None:
        return "- "
    error = "" if point.stderr is None else f" ± {point.stderr:.2g}"
    value = f"{point.value:.3f}" if abs(point.value) < 10 else f"{point.value:.4g}"
    return f"{value}{error}{'~' if point.is_noise else ' '}"


def model_table(rows: Sequence[Row]) -> Table:
    """One line for each model that stands alone, one column for each metric of each task.

    The last value of a metric that was measured twice is shown.
    """
    measures = list(dict.fromkeys(row.measure for row in rows))
    headings = (f"{metric} {task}" for task, metric in measures)
    table = plain_table(None, "method", "layers", "params", "bytes", *headings)
    table.columns[0].justify = "left"
    models: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        models.setdefault(row.student, {})[row.measure] = row
    for values in models.values():
        row = next(iter(values.values()))
        size = (str(row.num_layers), show_count(row.parameters), show_bytes(row.bytes))
        mine = (values.get(measure) for measure in measures)
        cells = ("-" if one is None else _with_error(one.value, one.stderr, 3) for one in mine)
        table.add_row(Text(row.series), *size, *cells)
    return table
