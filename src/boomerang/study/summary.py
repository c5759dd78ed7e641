"""A study in tables: what was measured, series by size, and what is planned and what it costs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import mean, stdev

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..evaluate.results import Row
from ..report.scale import show_value
from ..units import show_count
from .plan import Job, Plan
from .run import headlines


def summary_tables(rows: Sequence[Row]) -> list[Table]:
    """For each task and metric a line for each series and order, a column for each size.

    Args:
        rows: Of a study, seed by seed.
    """
    return [_summary(rows, task, metric) for task, metric in headlines(rows)]


def _summary(rows: Sequence[Row], task: str, metric: str) -> Table:
    rows = [row for row in rows if row.measure == (task, metric)]
    sizes = sorted({row.num_layers for row in rows})
    table = _table(f"{metric} of {task} by number of layers")
    table.caption = "mean ± standard deviation over seeds"
    table.add_column("series")
    for size in sizes:
        table.add_column(str(size), justify="right")
    lines: dict[tuple[str, str | None], dict[int, list[float]]] = {}
    for row in rows:
        line = lines.setdefault((row.series, row.order), {})
        line.setdefault(row.num_layers, []).append(row.value)
    orders = {order for _, order in lines if order is not None}
    for (series, order), values in lines.items():
        name = f"{series}, {order}" if order is not None and len(orders) > 1 else series
        table.add_row(Text(name), *(_cell(values.get(size, [])) for size in sizes))
    return table


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    text = show_value(mean(values))
    return text if len(values) == 1 else f"{text} ± {show_value(stdev(values))}"


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
        title=Text(title), box=SIMPLE_HEAD, padding=(0, 1), show_edge=False, caption_justify="left"
    )
