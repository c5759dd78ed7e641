"""`boomerang sizes`: what every member of a family takes, before one is built."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..sizing import Size


@options.grouped
def sizes(
    teacher: Annotated[
        str,
        typer.Argument(
            help="The teacher: a directory, a hub id, or a config.json without any weights."
        ),
    ],
    cut: options.Cut,
    student: Annotated[
        str | None,
        typer.Argument(help="The student; without one, the layers a student would keep are given."),
    ] = None,
    order: options.OrderOption = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16, float16 or float32; by default the teacher's."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens in the KV cache (default 8192, or the most the model takes)."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts at once.")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Say which members run in so much memory: 8GiB.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print every member's layers, parameters, bytes and memory."""
    from ..checkpoint.sources import Source, Sources
    from ..errors import LayerMapError
    from ..layers import order_name
    from ..models.config import num_layers
    from ..sizing import default_context, member_sizes
    from ..units import parse_bytes

    limit = None if memory is None else parse_bytes(memory, "--memory")
    if student is None:
        source = Source.open(teacher, weights=False)
        sources = Sources.uncut(source, cut.of(num_layers(source.config)))
    elif cut.regular:
        raise LayerMapError(
            "the student is there already",
            where="--every, --first, --last",
            fix="leave them out, or name its layers with --keep",
        )
    else:
        kept = options.kept_layers(cut.keep)
        sources = Sources.open(teacher, student, keep=kept, weights=False)
    context = default_context(sources.teacher.config) if context is None else context
    along = sources.order if order is None else order
    members = sources.members(along)
    rows = member_sizes(sources, members, dtype=dtype, context=context, batch=batch)
    if as_json:
        found_in = sources.order_source if order is None else "given"
        said = {"order": order_name(along), "order_source": found_in}
        found = [_row(size, context, batch, limit) | said for size in rows]
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_table(rows, context, batch, limit)
    if order is None:
        typer.echo(sources.order_line, err=True)


def _row(size: Size, context: int, batch: int, limit: int | None) -> dict[str, Any]:
    return {**size.row(), "context": context, "batch": batch, "fits": _fits(size, limit)}


def _fits(size: Size, limit: int | None) -> bool | None:
    return None if limit is None or size.memory is None else size.memory <= limit


def _print_table(rows: Sequence[Size], context: int, batch: int, limit: int | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from ..sizing import OVERHEAD
    from ..units import show_bytes, show_count

    table = Table(
        box=box.SIMPLE_HEAD,
        caption=(
            f"memory: weights, KV cache of {batch} x {context} tokens, and {OVERHEAD:.0%} of the "
            "weights for the rest"
        ),
        caption_justify="left",
    )
    headings = ["patch", "layers", "parameters", "no embeddings", "weights", "KV / token", "memory"]
    if any(size.active_parameters != size.parameters for size in rows):
        headings.insert(4, "active")
    if limit is not None:
        headings.append(f"fits {show_bytes(limit)}")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for size in rows:
        cells = {
            "patch": str(size.member.patch),
            "layers": str(size.member.num_layers),
            "parameters": show_count(size.parameters),
            "no embeddings": show_count(size.parameters_without_embeddings),
            "active": _or_dash(size.active_parameters, show_count),
            "weights": show_bytes(size.bytes),
            "KV / token": _or_dash(size.kv_bytes_per_token, show_bytes),
            "memory": _or_dash(size.memory, show_bytes),
        }
        fits = {True: "yes", False: "no", None: "?"}[_fits(size, limit)]
        table.add_row(*(cells.get(heading, fits) for heading in headings))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _or_dash(value: int | None, show: Callable[[int], str]) -> str:
    return "?" if value is None else show(value)
