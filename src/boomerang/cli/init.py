"""`boomerang init`: cut a student out of a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import options


@options.grouped
def init(
    teacher: options.Teacher,
    out: Annotated[Path, typer.Argument(help="The directory to write the student to.")],
    cut: options.Cut,
    loading: options.Loading,
    random: Annotated[
        bool,
        typer.Option("--random", help="Initialise at random: the paper's control."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random initialisation.")] = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Cut a student out of a teacher's layers."""
    from ..checkpoint.output import check_free
    from ..checkpoint.sources import Source
    from ..models.config import num_layers

    check_free(out, overwrite=overwrite)
    source = Source.open(teacher, trust_remote_code=loading.trust_remote_code)
    layers = cut.of(num_layers(source.config))
    # The weights are only copied.
    device = "cpu" if loading.device == "auto" else loading.device
    kwargs = replace(loading, device=device).kwargs()

    from ..student import init_student

    init_student(source, out, layers, random=random, seed=seed, overwrite=overwrite, **kwargs)
    typer.echo(
        f"{out}: a student of {layers.num_student_layers} of {layers.num_layers} layers, "
        f"kept {', '.join(map(str, layers.kept))}"
    )
