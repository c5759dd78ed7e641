"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from ..errors import BoomerangError, LayerMapError
from ..layers import LayerMap

Teacher = Annotated[
    str,
    typer.Argument(help="The teacher: a directory, or a hub id with or without @revision."),
]
Student = Annotated[
    str,
    typer.Argument(help="The student: a directory, or a hub id with or without @revision."),
]
OrderOption = Annotated[
    str | None,
    typer.Option(
        help="last-to-first, first-to-last, or a file with a JSON list of student layers; by "
        "default the one recorded with the student, else the paper's."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an output that boomerang made.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
Every = Annotated[int | None, typer.Option(help="Keep every n-th teacher layer (default 2).")]
First = Annotated[int | None, typer.Option(help="Keep so many layers at the start (default 1).")]
Last = Annotated[int | None, typer.Option(help="Keep so many layers at the end (default 2).")]
Kept = Annotated[
    str | None,
    typer.Option(
        "--keep",
        help="The teacher layers that the student keeps, such as 0,2-8,35, where it has no "
        "student_config.json.",
    ),
]
Keep = Annotated[str | None, typer.Option(help="The teacher layers to keep, such as 0,2-8,35.")]

_LOADING = "Loading models"
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...", rich_help_panel=_LOADING)
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16 or float16; by default the teacher's.",
        rich_help_panel=_LOADING,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attn-implementation",
        help="As in transformers: sdpa, eager, ...",
        rich_help_panel=_LOADING,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the checkpoints. Off unless asked for.",
        rich_help_panel=_LOADING,
    ),
]

_LONGEST_MESSAGE = 1000
_DTYPES = ("float32", "bfloat16", "float16")
_LONGEST_RANGE = 10_000
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def layer_list(text: str, option: str) -> list[int]:
    """Read `0,2-8,35` as layer indices; a range includes both its ends.

    Raises:
        LayerMapError: The text is no such list.
    """
    result: list[int] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item.strip())
        if match is None:
            raise LayerMapError(
                f"{item!r} is no layer", where=option, fix="write a list as 0,2-8,35"
            )
        first = int(match[1])
        last = int(match[2] or first)
        if not 0 <= last - first <= _LONGEST_RANGE:
            raise LayerMapError(
                f"{item!r} is no range of layers", where=option, fix="write a list as 0,2-8,35"
            )
        result.extend(range(first, last + 1))
    return result


def kept_layers(text: str | None) -> list[int] | None:
    """What `--keep` says of a student, as `keep=` takes it.

    Raises:
        LayerMapError: The text is no list of layers.
    """
    return None if text is None else layer_list(text, "--keep")


def layer_map(
    num_layers: int,
    keep: str | None,
    every: int | None,
    first: int | None,
    last: int | None,
) -> LayerMap:
    """The plan that `--keep`, or `--every --first --last`, describes for a teacher of that depth.

    Raises:
        LayerMapError: Both ways at once, or a list that is no plan.
    """
    if keep is not None:
        if (every, first, last) != (None, None, None):
            raise LayerMapError(
                "cannot go with --every, --first or --last",
                where="--keep",
                fix="give just one of them",
            )
        return LayerMap(layer_list(keep, "--keep"), num_layers)
    return LayerMap.every(
        2 if every is None else every,
        num_layers=num_layers,
        first=1 if first is None else first,
        last=2 if last is None else last,
    )


def model_kwargs(
    device: str, dtype: str | None, attention: str | None, trust_remote_code: bool
) -> dict[str, Any]:
    """What the loading options mean for `Family.from_pretrained`, with a quiet transformers.

    Raises:
        BoomerangError: An unknown dtype, or a device this machine does not have.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise BoomerangError(
            f"{dtype!r} is unknown", where="--dtype", fix=f"use {', '.join(_DTYPES)}"
        )
    import torch

    quiet()
    kwargs: dict[str, Any] = {
        "device": pick_device(device),
        "trust_remote_code": trust_remote_code,
    }
    if dtype is not None:
        kwargs["dtype"] = getattr(torch, dtype)
    if attention is not None:
        kwargs["attn_implementation"] = attention
    return kwargs


def one_line(message: str) -> str:
    """A message for the terminal: one line, not too long, with nothing that the terminal obeys.

    Escape sequences and marks of writing direction, which names of files and values of configs may
    hold, are written as Python escapes them.
    """
    words = " ".join(message.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    if len(line) <= _LONGEST_MESSAGE:
        return line
    half = _LONGEST_MESSAGE // 2
    return f"{line[:half]} ... {line[-half:]}"


def quiet() -> None:
    """Keep transformers' own progress bars and advice out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def pick_device(name: str) -> str:
    """The device a user named, or with `auto` the accelerator if there is one.

    Raises:
        BoomerangError: There is no such device.
    """
    import torch

    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if name == "auto":
        return "cpu" if accelerator is None else accelerator.type
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BoomerangError(f"{name!r} cannot be used ({reason})", where="--device") from None
    return name
