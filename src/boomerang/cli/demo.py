"""`boomerang demo`: the whole path on an embedded teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import options


def demo(
    out: Annotated[Path, typer.Argument(help="Where everything is left.")] = Path("boomerang-demo"),
    teacher: Annotated[
        str | None, typer.Option(help="A directory or hub id; by default the embedded teacher.")
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Also distil a student from random weights, the paper's control.",
        ),
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Distillation steps of 4,096 tokens (default 240).")
    ] = None,
) -> None:
    """Cut, distil, measure every size, draw, build one and let it speak: minutes on a CPU."""
    options.quiet()

    from rich.console import Console

    from ..demo.walkthrough import run_demo
    from ..report.table import member_tables

    settings: dict[str, Any] = {} if steps is None else {"steps": steps}
    console = Console(stderr=True)
    outcome = run_demo(
        out,
        teacher=teacher,
        controls=controls,
        say=lambda line: console.print(line, style="bold", highlight=False),
        **settings,
    )
    for table in member_tables(outcome.rows):
        Console().print(table)
    typer.echo(f"\n{outcome.member.name}: {outcome.speech}")
    typer.echo(f"\nFigure: {outcome.figure[0]}")
    typer.echo(f"Report: {outcome.report}")
