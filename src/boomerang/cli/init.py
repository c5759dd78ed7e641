"""`boomerang init`: cut a student out of a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def init(
    teacher: options.Teacher,
    out: Annotated[Path, typer.Argument(help="The directory to write the student to.")],
    every: options.Every = None,
    first: options.First = None,
    last: options.Last = None,
    keep: options.Keep = None,
    random: Annotated[
        bool,
        typer.Option("--random", help="Initialise at random: the paper's control."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the random initialisation.")] = 0,
    overwrite: options.Overwrite = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attn_implementation: options.Attention = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Cut a student out of a teacher's layers."""
    from ..checkpoint.output import check_free
    from ..checkpoint.sources import Source
    from ..models.config import num_layers

    check_free(out, overwrite=overwrite)
    source = Source.open(teacher, trust_remote_code=trust_remote_code)
    layers = options.layer_map(num_layers(source.config), keep, every, first, last)
    kwargs = options.model_kwargs(device, dtype, attn_implementation, trust_remote_code)

    from ..student import init_student

    init_student(source, out, layers, random=random, seed=seed, overwrite=overwrite, **kwargs)
    typer.echo(
        f"{out}: a student of {layers.num_student_layers} of {layers.num_layers} layers, "
        f"kept {', '.join(map(str, layers.kept))}"
    )
