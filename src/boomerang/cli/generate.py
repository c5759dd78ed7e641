"""`boomerang generate`: try a size before building it."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


@options.grouped
def generate(
    teacher: options.Teacher,
    student: options.Student,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    loading: options.Loading,
    patch: Annotated[
        int,
        typer.Option(help="How many blocks of teacher layers to put back; 0 is the student."),
    ] = 0,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Give the prompt as a message, by the model's chat template."),
    ] = False,
    order: options.OrderOption = None,
    keep: options.Kept = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the continuation.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the sampling, where the model samples.")] = 0,
) -> None:
    """Let a member of the family continue a text, without writing it anywhere."""
    from ..checkpoint.sources import Sources
    from ..errors import DataError

    if not prompt:
        raise DataError("the prompt is empty", fix="give some text to continue")
    kept = options.kept_layers(keep)
    trust = loading.trust_remote_code
    sources = Sources.open(teacher, student, keep=kept, trust_remote_code=trust)
    kwargs = loading.kwargs()

    import torch

    from ..checkpoint.loading import continuation
    from ..family import Family

    family = Family.load(sources, **kwargs)
    member, tokenizer = family.member(patch, order), sources.teacher.tokenizer
    torch.manual_seed(seed)
    text = continuation(family.model(member), tokenizer, prompt, max_new_tokens, chat=chat)
    if order is None:
        typer.echo(sources.order_line, err=True)
    typer.echo(
        f"{member.num_layers} of {family.layers.num_layers} layers, patch {member.patch} "
        f"of {family.layers.max_patch}",
        err=True,
    )
    typer.echo(text if chat else prompt + text)
