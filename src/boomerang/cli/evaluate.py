"""`boomerang evaluate`: measure the members of a family on text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from . import options


def evaluate(
    teacher: options.Teacher,
    student: options.Student,
    out: Annotated[Path, typer.Argument(help="The directory for results.jsonl.")],
    text: Annotated[
        list[Path] | None, typer.Option(help="UTF-8 text to measure on; may be repeated.")
    ] = None,
    members: Annotated[str, typer.Option(help="all, or values of patch such as 0,4,8.")] = "all",
    order: options.OrderOption = None,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="The most positions a member sees at once (default 2048)."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens scored per window (default half the window).")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Windows at a time (default: a reasonable number of tokens)."),
    ] = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    attn_implementation: options.Attention = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Measure perplexity and bits per byte of every size; an interrupted run is continued."""
    if not text:
        raise DataError("there is nothing to measure on", fix="give --text FILE")
    chosen = None if members == "all" else options.layer_list(members, "--members")
    kwargs = options.model_kwargs(device, dtype, attn_implementation, trust_remote_code)

    from rich.console import Console

    from ..evaluate import evaluate as measure
    from ..report.table import member_tables

    rows = measure(
        teacher, student, out, texts=text, members=chosen, order=order,
        window=window, stride=stride, batch_size=batch_size, **kwargs,
    )  # fmt: skip
    if as_json:
        typer.echo("\n".join(row.model_dump_json() for row in rows))
        return
    for table in member_tables(rows):
        Console().print(table)
