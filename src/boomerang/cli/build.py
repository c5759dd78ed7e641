"""`boomerang build`: a member of the family as a standard checkpoint."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..layers import Member
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
    from ..build import check_room, choose_member, is_written, member_directory, write_member
    from ..checkpoint.hub import check_repository, push
    from ..checkpoint.output import check_free
    from ..checkpoint.sources import FamilyOnDisk
    from ..errors import LayerMapError
    from ..progress import show_progress

    choices = (patch, layers, params, memory, blocks)
    if everything and any(choice is not None for choice in choices):
        raise LayerMapError("goes with no other choice of a member", where="--all")
    if push_to_hub is not None:
        check_repository(push_to_hub)
    if not everything:
        check_free(out, overwrite=overwrite)
    family = FamilyOnDisk.open(teacher, student, keep=options.kept_layers(keep))
    written: set[Path] = set()
    if everything:
        members = family.members(order)
        targets = [member_directory(family, member, out) for member in members]
        for member, target in zip(members, targets, strict=True):
            if push_to_hub is not None:
                check_repository(_repository(push_to_hub, member))
            # What an interrupted run has finished stays as it is.
            if not overwrite and is_written(
                family, member, target, order=order, dtype=dtype, max_shard_size=max_shard_size
            ):
                written.add(target)
            else:
                check_free(target, overwrite=overwrite)
        left = [m for m, target in zip(members, targets, strict=True) if target not in written]
        check_room(family, left, out, dtype)
        reason = None
    else:
        member, reason = choose_member(
            family,
            patch=patch,
            num_layers=layers,
            params=params,
            memory=memory,
            blocks=None if blocks is None else options.layer_list(blocks, "--blocks"),
            order=order,
            context=context,
            batch=batch,
            dtype=dtype,
        )
        members, targets = (member,), [out]
    for member, target in zip(members, targets, strict=True):
        if target not in written:
            write_member(
                family,
                member,
                target,
                order=order,
                dtype=dtype,
                max_shard_size=max_shard_size,
                overwrite=overwrite,
                progress=partial(show_progress, "Writing", words=show_bytes),
            )
        if push_to_hub is not None:
            push(target, _repository(push_to_hub, member) if everything else push_to_hub)
        # Last, so that an error is alone on standard error.
        if reason is not None:
            typer.echo(reason, err=True)
        done = ", already there" if target in written else ""
        typer.echo(f"{target}: {member.num_layers} layers, patch {member.patch}{done}")
    if order is None and blocks is None:
        typer.echo(str(family.pairing), err=True)
    directory = shlex.quote(str(targets[-1]))
    typer.echo(f"`boomerang verify {directory}` checks the result by loading it", err=True)


def _repository(family: str, member: Member) -> str:
    """Where on the hub a member of a whole family goes."""
    return f"{family}-{member.num_layers}L"
