"""`boomerang demo`: the whole path, on an embedded teacher or a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def demo(
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Where everything is left.",
            show_default="boomerang-demo, or boomerang-demo-real",
        ),
    ] = None,
    real: Annotated[
        bool,
        typer.Option(
            "--real", help="On SmolLM2-135M-Instruct: half an hour on two cores, all told."
        ),
    ] = False,
    teacher: Annotated[
        str | None, typer.Option(help="A directory or hub id, in place of the demo's own teacher.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text to distil on; its end is held out. By default books."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens to distil on.", show_default="983,040, or 307,200 with --real"
        ),
    ] = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Also distil a student from random weights, the paper's control.",
        ),
    ] = False,
) -> None:
    """Cut, distil, measure every size, draw, build one and let it speak: minutes on a CPU."""
    options.quiet()

    from rich.console import Console

    from ..demo.walkthrough import run_demo
    from ..report.table import all_tables

    console = Console(stderr=True, soft_wrap=True)
    outcome = run_demo(
        out or Path("boomerang-demo-real" if real else "boomerang-demo"),
        real=real,
        teacher=teacher,
        data=data or (),
        tokens=tokens,
        controls=controls,
        say=lambda line: console.print(line, style="bold", highlight=False, markup=False),
    )
    for table in all_tables(outcome.rows):
        Console().print(table)
    typer.echo(f"\n{outcome.member.name}: {outcome.speech}")
    typer.echo(f"\nFigure: {outcome.figure[0]}")
    typer.echo(f"Report: {outcome.report}")
