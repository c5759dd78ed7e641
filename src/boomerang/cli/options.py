"""Options that several commands share, how their values are read, and how messages are shown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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

# typer's types and names where they differ from those of a group's field.
_TYPES: dict[str, Any] = {
    "texts": list[Path] | None,
    "include_path": Path | None,
    "gen_kwargs": str | None,
}
_NAMES = {"texts": "--text"}
_OF_TEXTS = ("texts", "window", "stride", "batch_size")

_LONGEST_MESSAGE = 1000
_DTYPES = ("float32", "bfloat16", "float16")
_LONGEST_RANGE = 10_000
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of its groups.

    Args:
        command: Its parameters are options, and groups of them: dataclasses whose fields are
            options, or groups again.
    """
    everything = inspect.signature(command, eval_str=True).parameters.values()
    groups = {each.name: each.annotation for each in everything if is_dataclass(each.annotation)}
    own = [each for each in everything if each.name not in groups]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    for group in groups.values():
        parameters += _parameters(group)

    def wrapped(**values: Any) -> None:
        made = {name: _make(group, values) for name, group in groups.items()}
        command(**values, **made)

    # typer reads the parameters from both.
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def _parameters(group: Any) -> list[inspect.Parameter]:
    found: list[inspect.Parameter] = []
    for each, kind in _fields(group):
        if is_dataclass(kind):
            found += _parameters(kind)
            continue
        found.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=kind
            )
        )
    return found


def _fields(group: Any) -> list[tuple[Field[Any], Any]]:
    """The fields of a group and their types, with what typer needs to know."""
    hints = get_type_hints(group, include_extras=True)
    return [
        (each, _described(each, hints[each.name]) if "help" in each.metadata else hints[each.name])
        for each in fields(group)
    ]


def _described(field: Field[Any], kind: Any) -> Any:
    """The type of a field that carries its own help, such as those of `Measure`."""
    name = _NAMES.get(field.name, f"--{field.name.replace('_', '-')}")
    panel = None if field.name in _OF_TEXTS else "Tasks of lm-evaluation-harness"
    option = typer.Option(name, help=field.metadata["help"], rich_help_panel=panel)
    return Annotated[_TYPES.get(field.name, kind), option]


def _make(group: Any, values: dict[str, Any]) -> Any:
    """A group of the values of its options, which are taken out."""
    made = {
        each.name: _make(kind, values) if is_dataclass(kind) else values.pop(each.name)
        for each, kind in _fields(group)
    }
    return group(**made)


@dataclass(frozen=True)
class Loading:
    """How models are loaded."""

    device: Device = "auto"
    dtype: Dtype = None
    attn_implementation: Attention = None
    trust_remote_code: TrustRemoteCode = False

    def kwargs(self) -> dict[str, Any]:
        """The options as `from_pretrained` takes them; makes transformers quiet.

        Raises:
            BoomerangError: An unknown dtype, or a device this machine does not have.
        """
        dtype = known_dtype(self.dtype)
        import torch

        quiet()
        given = {
            "dtype": None if dtype is None else getattr(torch, dtype),
            "attn_implementation": self.attn_implementation,
        }
        given = {name: value for name, value in given.items() if value is not None}
        device = pick_device(self.device)
        return {"device": device, "trust_remote_code": self.trust_remote_code, **given}


@dataclass(frozen=True)
class Cut:
    """Which layers of a teacher a new student keeps."""

    every: Every = None
    first: First = None
    last: Last = None
    keep: Keep = None

    @property
    def regular(self) -> bool:
        """Whether one of `--every`, `--first` and `--last` is given."""
        return (self.every, self.first, self.last) != (None, None, None)

    def recipe(self) -> list[int] | dict[str, int]:
        """The layers as a recipe's `keep` names them.

        Raises:
            LayerMapError: Both ways at once, or a text that is no list of layers.
        """
        if self.keep is None:
            return {
                "every": 2 if self.every is None else self.every,
                "first": 1 if self.first is None else self.first,
                "last": 2 if self.last is None else self.last,
            }
        if self.regular:
            raise LayerMapError(
                "cannot go with --every, --first or --last",
                where="--keep",
                fix="give just one of them",
            )
        return layer_list(self.keep, "--keep")

    def of(self, num_layers: int) -> LayerMap:
        """The layers of a teacher of that depth; raises `LayerMapError`."""
        keep = self.recipe()
        if isinstance(keep, list):
            return LayerMap(keep, num_layers)
        return LayerMap.every(
            keep["every"], num_layers=num_layers, first=keep["first"], last=keep["last"]
        )


def known_dtype(name: str | None) -> str | None:
    """What `--dtype` says; raises `BoomerangError` for an unknown dtype."""
    if name is not None and name not in _DTYPES:
        raise BoomerangError(
            f"{name!r} is unknown", where="--dtype", fix=f"use {', '.join(_DTYPES)}"
        )
    return name


def layer_list(text: str, option: str) -> list[int]:
    """Read `0,2-8,35` as layer indices; a range includes both its ends.

    Raises:
        LayerMapError: The text is no such list.
    """
    result: list[int] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not 0 <= last - first <= _LONGEST_RANGE:
            what = "is no range of layers" if match else "is no layer"
            raise LayerMapError(f"{item!r} {what}", where=option, fix="write a list as 0,2-8,35")
        result.extend(range(first, last + 1))
    return result


def kept_layers(text: str | None) -> list[int] | None:
    """What `--keep` says about a student, as `keep=` takes it; raises `LayerMapError`."""
    return None if text is None else layer_list(text, "--keep")


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
