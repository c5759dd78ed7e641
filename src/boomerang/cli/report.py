"""`boomerang report`: results as a page to look at and to choose by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OutputError


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS... OUT.html",
            help="Directories of `boomerang evaluate`, then the file to write.",
        ),
    ],
    external: Annotated[
        list[Path] | None,
        typer.Option(
            help="A CSV of other models' results (name, parameters, task, metric, value, and if "
            "wanted stderr, bytes, layers); may be repeated."
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(help="Also write every figure as PNG and SVG into this directory."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
) -> None:
    """Write one HTML page: quality against size, and the member for a budget."""
    *results, out = paths
    if not results:
        raise OutputError("is all that is named", where=out, fix="give RESULTS and OUT.html")

    from ..report.write import write_report

    typer.echo(write_report(results, out, external=external or (), figures=figures, title=title))
