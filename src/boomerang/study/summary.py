"""A study in tables: what was measured, series by size, and what is planned and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import mean, stdev

from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from ..evaluate.results import Row
from ..report.metrics import show_value
from ..units import show_count
from .execute import headlines
from .plan import Job, Plan


def summary_tables(rows: Sequence[Row]) -> list[Table]:
    """For each task and metric a line for each series and order, a column for each size.

    To be printed uncropped: where there is not room for all, lines run over.

    Args:
        rows: Of a study, seed by seed.
    """
    return [_summary(rows, task, metric) for task, metric in headlines(rows)]


def _summary(rows: Sequence[Row], task: str, metric: str) -> Table:
    measured = [row for row in rows if row.measure == (task, metric)]
    sizes = sorted({row.num_layers for row in measured})
    table = _table(f"{metric} of {task} by number of layers")
    table.caption = "means over seeds; ±: the largest standard deviation over seeds of a size"
    lines: dict[tuple[str, str | None], dict[int, list[float]]] = {}
    for row in measured:
        line = lines.setdefault((row.series, row.order), {})
        line.setdefault(row.num_layers, []).append(row.value)
    orders = {order for _, order in lines if order is not None}
    cells: list[list[str]] = []
    for (series, order), values in lines.items():
        name = f"{series}, {order}" if order is not None and len(orders) > 1 else series
        means = [show_value(mean(values[size])) if size in values else "" for size in sizes]
        spreads = [stdev(each) for each in values.values() if len(each) > 1]
        cells.append([name, *means, show_value(max(spreads)) if spreads else ""])
    headings = ["series", *map(str, sizes), "±"]
    for heading, column in zip(headings, zip(*cells, strict=True), strict=True):
        # A number cut short says nothing.
        width = max(map(len, (heading, *column)))
        justify: JustifyMethod = "left" if heading == "series" else "right"
        table.add_column(heading, justify=justify, min_width=width, no_wrap=True)
    for line_cells in cells:
        table.add_row(*map(Text, line_cells))
    return table


def plan_table(plan: Plan, missing: Collection[Job]) -> Table:
    """The runs of a study, what they take, and which are left.

    Args:
        plan: The study's.
        missing: The runs that are left.
    """
    left = {job.name for job in missing}
    table = _table(f"{len(left)} of {len(plan.jobs)} runs to do")
    table.add_column("run")
    for heading in ("tokens", "FLOP", "state"):
        table.add_column(heading, justify="right")
    for job in plan.jobs.values():
        state = "to do" if job.name in left else "done"
        table.add_row(Text(job.title), *_cost([job]), state)
    table.add_section()
    table.add_row("all", *_cost(plan.jobs.values()), "")
    table.add_row("to do", *_cost(missing), "")
    return table


def _cost(jobs: Collection[Job]) -> tuple[str, str]:
    """Tokens and operations of distillations; measuring is not counted."""
    distilled = [job for job in jobs if job.kind == "distil"]
    if not distilled:
        return "", ""
    tokens, flops = (
        [getattr(job, key) for job in distilled if getattr(job, key) is not None]
        for key in ("tokens", "flops")
    )
    if len(tokens) < len(distilled):
        return "not known", "not known"
    return show_count(sum(tokens)), f"{sum(flops):.2e}"


def _table(title: str) -> Table:
    return Table(
        title=Text(title), box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False,
        pad_edge=False, caption_justify="left",
    )  # fmt: skip
