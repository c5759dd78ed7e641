"""`boomerang study`: a family, variants of it and baselines, from one file to one report."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options


class Executor(StrEnum):
    """Where runs are done."""

    local = "local"
    slurm = "slurm"


def study(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG.yaml | NAME", help="A study, or one that comes along, such as claims."
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="The directory for it; by default study-NAME.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replace a value, such as recipe.loss.kl=1."
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Runs at a time; with several GPUs, each takes one in turn."),
    ] = 1,
    executor: Annotated[
        Executor,
        typer.Option(help="Do runs on this machine, or as jobs of a slurm cluster."),
    ] = Executor.local,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs and what they cost, and stop.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Distil, measure and compare what a study lists; what is done is not repeated."""
    from rich.console import Console

    from ..study.config import Study

    parsed = Study.load(config, setting or [])
    directory = Path(f"study-{Path(config).stem}") if out is None else out
    errors = Console(stderr=True, soft_wrap=True)

    from ..study.execute import plan_table, preview, run_study, summary_tables

    if dry_run:
        plan, missing = preview(parsed, directory)
        if as_json:
            left = {job.name for job in missing}
            for job in plan.jobs.values():
                about = asdict(job) | {"done": job.name not in left}
                typer.echo(json.dumps(about))
        else:
            Console().print(plan_table(plan, missing))
        return

    def say(line: str) -> None:
        errors.print(options.one_line(line), highlight=False, markup=False)

    rows = run_study(parsed, directory, jobs=jobs, executor=executor.value, say=say)
    if as_json:
        typer.echo("\n".join(row.model_dump_json() for row in rows))
        return
    for table in summary_tables(rows):
        Console().print(table, crop=False)
