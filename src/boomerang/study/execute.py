"""A study from its config to its report, and its tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from statistics import mean, stdev

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..checkpoint.lock import locked
from ..checkpoint.output import check_apart, write_text
from ..errors import StudyError
from ..evaluate.results import BITS_PER_BYTE, FAMILY, PERPLEXITY, Row
from ..report.words import show_value
from ..units import show_count
from .config import EMBEDDED, Study
from .plan import Job, Plan, make_plan
from .plan_inputs import check_measurable, find_facts, write_embedded_texts
from .records import Directory
from .submit import Executor, check_executor, run_jobs

Say = Callable[[str], None]

STUDY_FILE = "study.yaml"
REPORT_FILE = "report.html"


def run_study(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    executor: Executor = "local",
    say: Say = lambda line: None,
) -> list[Row]:
    """Do what is missing of a study, and write its results and its report.

    A run is recorded when it is done, and not done again while nothing changes that decides its
    outcome; a stopped run is continued. Writes into `out`: `results.jsonl` and `jobs.jsonl` (what
    each run took) after each run; `report.html` and `figures/` at the end; and `students/`, which
    may be removed: a student is distilled again only if something is still to be measured of it.

    Args:
        study: The study.
        out: The output directory; one of the same teacher is continued.
        jobs: The number of runs at a time; each has a GPU of its own where there are several.
        executor: `local`: processes of this machine; `slurm`: jobs of a cluster.
        say: Called with a line for each run that starts or ends.

    Returns:
        The rows of the whole study.

    Raises:
        StudyError: A run failed (those that do not need it are done nevertheless).
        OutputError: `out` holds something else or the teacher, or another process writes into it.
        BoomerangError: The teacher or a text cannot be used.
        SystemExit: A signal stopped the study; the code is 128 plus its number.
    """
    check_executor(executor)
    directory = Directory(Path(out))
    check_apart(directory.path, study.teacher)
    with locked(directory.path):
        plan = _prepare(study, directory)
        write_text(directory.path / STUDY_FILE, _yaml(study))
        directory.collect(plan)
        missing = plan.missing(directory.done())

        def started(job: Job, number: int) -> None:
            say(f"[{number}/{len(missing)}] {job.title}")

        def ended(job: Job, seconds: float, error: str | None) -> None:
            if error is None:
                directory.collect(plan)
            say(f"{job.title}: {f'{seconds:.0f} s' if error is None else f'failed: {error}'}")

        if missing:
            say(f"{len(missing)} of {len(plan.jobs)} runs to do; their logs: {directory.logs}")
        failures = run_jobs(
            missing, directory, jobs, executor=executor, started=started, ended=ended
        )
        rows = directory.collect(plan)
        if any(row.series == FAMILY for row in rows):
            say(f"Report: {_draw(study, rows, directory.path)}")
    if not failures:
        return rows
    first, more = failures[0], len(failures) - 1
    text = f"failed: {first.error}{f' (and {more} more failed)' if more else ''}"
    if all(failure.mistake for failure in failures):
        raise StudyError(text, where=first.job.title)
    raise RuntimeError(f"{first.job.title}: {text}; {directory.logs} tells more")


def preview(study: Study, out: str | Path) -> tuple[Plan, list[Job]]:
    """The runs of a study and those that are left; nothing is written, nothing downloaded.

    Raises:
        BoomerangError: As `run_study`.
    """
    directory = Directory(Path(out))
    plan = make_plan(study, find_facts(study, directory.texts, download=False))
    return plan, plan.missing(directory.done())


def _prepare(study: Study, directory: Directory) -> Plan:
    # A study that cannot work is refused before anything is downloaded or written.
    facts = find_facts(study, directory.texts, download=False)
    plan = make_plan(study, facts)
    if not facts.hash or any(study.baselines.wanted("given")):
        facts = find_facts(study, directory.texts, download=True)
        plan = make_plan(study, facts)
    if plan.missing(directory.done()):
        check_measurable(study, facts)
    directory.claim(facts.hash)
    if study.teacher == EMBEDDED:
        write_embedded_texts(directory.texts)
    return plan


def _draw(study: Study, rows: Sequence[Row], out: Path) -> Path:
    # matplotlib takes a second to import.
    from ..report.charts import one_chart
    from ..report.figure import save_figure
    from ..report.write import write_report

    for name, series in study.figures.items():
        shown = [row for row in rows if row.series in (FAMILY, *series)]
        for task, metric in _headlines(shown):
            words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{name} {task} {metric}").strip("-.")
            chart = one_chart(shown, task=task, metric=metric)
            save_figure(chart, out / "figures" / words)
    return write_report([out], out / REPORT_FILE)


def _yaml(study: Study) -> str:
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _headlines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The metrics worth a figure: no differences, and of a text its perplexity alone."""
    found = dict.fromkeys(row.measure for row in rows)
    texts = {task for task, metric in found if metric == PERPLEXITY}
    return [
        (task, metric)
        for task, metric in found
        if not metric.endswith("_difference") and not (task in texts and metric == BITS_PER_BYTE)
    ]


def summary_tables(rows: Sequence[Row]) -> list[Table]:
    """For each task and metric a line for each series and order, a column for each size.

    To be printed uncropped, so that lines that are too long run over.
    """
    return [_summary(rows, *measure) for measure in _headlines(rows)]


def _summary(rows: Sequence[Row], task: str, metric: str) -> Table:
    lines: dict[tuple[str, str | None], dict[int, list[float]]] = {}
    for row in rows:
        if row.measure == (task, metric):
            line = lines.setdefault((row.series, row.order), {})
            line.setdefault(row.num_layers, []).append(row.value)
    sizes = sorted({size for line in lines.values() for size in line})
    orders = {order for _, order in lines if order is not None}
    headings = ["series", *map(str, sizes), "±"]
    cells: list[list[str]] = []
    for (series, order), values in lines.items():
        name = f"{series}, {order}" if order is not None and len(orders) > 1 else series
        means = [show_value(mean(values[size])) if size in values else "" for size in sizes]
        spreads = [stdev(each) for each in values.values() if len(each) > 1]
        cells.append([name, *means, show_value(max(spreads)) if spreads else ""])
    table = _table(f"{metric} of {task} by number of layers")
    table.caption = "means over seeds; ±: the largest standard deviation over seeds of a size"
    for heading, column in zip(headings, zip(*cells, strict=True), strict=True):
        # A number cut short says nothing.
        width = max(map(len, (heading, *column)))
        justify = "left" if heading == "series" else "right"
        table.add_column(heading, justify=justify, min_width=width, no_wrap=True)  # type: ignore[arg-type]
    for line_cells in cells:
        table.add_row(*map(Text, line_cells))
    return table


def plan_table(plan: Plan, missing: Collection[Job]) -> Table:
    """The runs of a study, what they take, and which of them are left."""
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
    tokens = [job.tokens for job in distilled if job.tokens is not None]
    flops = [job.flops for job in distilled if job.flops is not None]
    if len(tokens) < len(distilled):
        return "not known", "not known"
    return show_count(sum(tokens)), f"{sum(flops):.2e}"


def _table(title: str) -> Table:
    return Table(
        title=Text(title), box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False,
        pad_edge=False, caption_justify="left",
    )  # fmt: skip
