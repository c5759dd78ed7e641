"""`boomerang inspect`: how alike layers are, what patching each does, what to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, LayerMapError
from . import options


@options.grouped
def inspect(
    teacher: options.Teacher,
    loading: options.Loading,
    student: Annotated[
        str | None,
        typer.Argument(
            help="The student: a directory or a hub id. Without one, the teacher alone tells which "
            "layers to keep.",
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="UTF-8 text to look at, all of it; may be repeated."),
    ] = None,
    keep: options.Kept = None,
    every: Annotated[
        int, typer.Option(min=1, help="Without a student: keep about every n-th layer.")
    ] = 2,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the similarities into this file: map.png, .svg, .pdf.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Look inside: similarity of layers, the effect of patching each, which layers to keep."""
    if not text:
        raise DataError("there is nothing to look at", fix="give --text FILE")
    kept = options.kept_layers(keep)
    if student is None and kept is not None:
        raise LayerMapError("goes with a student", where="--keep", fix="name the student")
    kwargs = loading.kwargs()

    import json

    from rich.console import Console

    from ..checkpoint.output import check_apart
    from ..orders.inspection import inspect_paths
    from ..report.inspection import check_suffix, inspection_tables, save_heatmap

    if figure is not None:
        check_suffix(figure)
        check_apart(figure, *(each for each in (teacher, student) if each is not None))
    inspection = inspect_paths(teacher, student, text, every=every, keep=kept, **kwargs)
    if as_json:
        typer.echo(json.dumps(inspection.to_json()))
    else:
        for table in inspection_tables(inspection):
            Console().print(table)
        for what, advice in (("keep", inspection.keep), ("order", inspection.order)):
            if advice is not None:
                typer.echo(f"{what} {advice}")
    if figure is not None:
        save_heatmap(inspection, figure)
