"""`boomerang verify`: is a built member the model its plan says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


@options.grouped
def verify(
    directory: Annotated[Path, typer.Argument(help="A directory made by `boomerang build`.")],
    loading: options.Loading,
    teacher: Annotated[
        str | None, typer.Option(help="Where the teacher is now, if it has moved.")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Where the student is now, if it has moved.")
    ] = None,
) -> None:
    """Load a built member as a user would and compare it with the same member in memory."""
    from ..checkpoint.record import read_record

    read_record(directory)
    kwargs = loading.kwargs()

    from ..verify import verify as run

    result = run(directory, teacher=teacher, student=student, **kwargs)
    if not result.passed:
        typer.echo(f"{directory}: FAIL: {result.difference}")
        raise typer.Exit(1)
    rounding = f" (up to rounding: {result.largest:g})" if result.largest else ""
    typer.echo(
        f"{directory}: pass: {result.tensors} tensors, the logits{rounding} and {result.tokens} "
        "greedy tokens equal those of the member in memory"
    )
