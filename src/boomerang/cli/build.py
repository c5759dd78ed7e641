"""`boomerang build`: a member of the family as a standard checkpoint."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..units import show_bytes
from . import options

_CHOICE = "Which member (exactly one)"
_MEMORY = "With --memory"


def build(
    teacher: options.Teacher,
    student: options.Student,
    out: Annotated[Path, typer.Argument(help="The directory to write.")],
    patch: Annotated[
        int | None,
        typer.Option(
            help="How many blocks of teacher layers to put back.", rich_help_panel=_CHOICE
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(help="The largest with at most so many layers.", rich_help_panel=_CHOICE),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(
            help="The largest with at most so many parameters: 3.2B.", rich_help_panel=_CHOICE
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="The largest that runs in so much memory: 8GiB.", rich_help_panel=_CHOICE
        ),
    ] = None,
    blocks: Annotated[
        str | None,
        typer.Option(help="The student layers to replace: 3,7-9.", rich_help_panel=_CHOICE),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Every member, each in a directory of its own in OUT; run again after an "
            "interruption, it goes on.",
            rich_help_panel=_CHOICE,
        ),
    ] = False,
    order: options.OrderOption = None,
    keep: options.Kept = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16, float16 or float32; by default the teacher's."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of text (default 8192).", rich_help_panel=_MEMORY),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts at once.", rich_help_panel=_MEMORY)] = 1,
    max_shard_size: Annotated[
        str, typer.Option(help="The most bytes of weights in a file: 5GB.")
    ] = "50GB",
    overwrite: options.Overwrite = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Upload the result to this repository as well (with --all, one per member); "
            "its boomerang.json names local sources by their paths."
        ),
    ] = None,
) -> None:
    """Write a member of the family as a checkpoint that any tool for the teacher reads."""
    from ..build import MemberWriter, choose_member, member_directory
    from ..checkpoint.hub import check_repository, push
    from ..checkpoint.output import check_free
    from ..checkpoint.sources import Sources
    from ..errors import LayerMapError
    from ..progress import show_progress

    choices = (patch, layers, params, memory, blocks)
    if everything and any(choice is not None for choice in choices):
        raise LayerMapError("goes with no other choice of a member", where="--all")
    if push_to_hub is not None:
        check_repository(push_to_hub)
    if not everything:
        check_free(out, overwrite=overwrite)
    sources = Sources.open(teacher, student, keep=options.kept_layers(keep))
    writer = MemberWriter(sources, order, dtype, max_shard_size)
    reason = None
    if everything:
        targets = {member_directory(sources, m, out): m for m in sources.members(order)}
    else:
        patched = None if blocks is None else options.layer_list(blocks, "--blocks")
        member, reason = choose_member(
            sources, patch=patch, num_layers=layers, params=params, memory=memory, blocks=patched,
            order=order, context=context, batch=batch, dtype=dtype,
        )  # fmt: skip
        targets = {out: member}
    repositories = {
        target: f"{push_to_hub}-{member.num_layers}L" if everything else push_to_hub
        for target, member in targets.items()
        if push_to_hub is not None
    }
    for repository in repositories.values():
        check_repository(repository)
    # What an interrupted run with --all has finished stays as it is.
    goes_on = everything and not overwrite
    left = {t: m for t, m in targets.items() if not (goes_on and writer.is_written(m, t))}
    for target in left:
        check_free(target, overwrite=overwrite)
    writer.check_space(left.values(), out)
    for target, member in targets.items():
        if target in left:
            bar = partial(show_progress, "Writing", words=show_bytes)
            writer.write(member, target, overwrite=overwrite, progress=bar)
        if target in repositories:
            push(target, repositories[target])
        # Last, so that an error is alone on standard error.
        if reason is not None:
            typer.echo(reason, err=True)
        there = "" if target in left else ", already there"
        typer.echo(f"{target}: {member.num_layers} layers, patch {member.patch}{there}")
    if order is None and blocks is None:
        typer.echo(sources.order_line, err=True)
    directory = shlex.quote(str(target))
    typer.echo(f"`boomerang verify {directory}` checks the result by loading it", err=True)
