"""The options of every command that measures: on what, how, and how models are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import DataError
from ..evaluate.options import Measure
from . import options

if TYPE_CHECKING:
    from ..checkpoint.sources import Sources
    from ..evaluate.results import Row

Results = Annotated[Path, typer.Argument(help="The directory for results.jsonl.")]

_TASKS = "Tasks of lm-evaluation-harness"
_MODEL = ("device", "dtype", "attn_implementation", "trust_remote_code")


# Typer's types and names where they differ from the model's.
_TYPES: dict[str, Any] = {
    "texts": list[Path] | None,
    "include_path": Path | None,
    "gen_kwargs": str | None,
}
_NAMES = {"texts": "--text"}
_OF_TEXTS = ("texts", "window", "stride", "batch_size")


def _loading(
    keep: options.Kept = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    attn_implementation: options.Attention = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None: ...


def _parameters() -> list[inspect.Parameter]:
    """The fields of `Measure` as options, and those of loading."""
    types = get_type_hints(Measure) | _TYPES
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=Annotated[
                types[each.name],
                typer.Option(
                    _NAMES.get(each.name, f"--{each.name.replace('_', '-')}"),
                    help=each.metadata["help"],
                    rich_help_panel=None if each.name in _OF_TEXTS else _TASKS,
                ),
            ],
        )
        for each in fields(Measure)
    ] + list(inspect.signature(_loading, eval_str=True).parameters.values())


@dataclass(frozen=True)
class Measuring:
    """The values of the shared options.

    Attributes:
        values: By the name of the parameter.
    """

    values: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """What to measure on and how, as `boomerang.evaluate` takes it.

        Raises:
            DataError: There is nothing to measure on, or a value cannot be used.
        """
        settings = {name: self.values[name] for name in Measure.names()}
        if not settings["texts"] and not settings["tasks"]:
            raise DataError(
                "there is nothing to measure on", fix="give --text FILE or --tasks NAMES"
            )
        Measure.of(settings)
        return settings

    @property
    def keep(self) -> list[int] | None:
        """The teacher layers that the student keeps, as `keep=` takes them.

        Raises:
            LayerMapError: The text is no list of layers.
        """
        return options.kept_layers(self.values["keep"])

    def loading(self) -> dict[str, Any]:
        """How models are loaded, as `from_pretrained` takes it; imports torch.

        Raises:
            BoomerangError: An unknown dtype, or a device this machine does not have.
        """
        return options.model_kwargs(*(self.values[key] for key in _MODEL))

    def show(self, rows: list[Row], *, alone: bool = False) -> None:
        """Print rows, as tables or as JSON lines; nothing in any but the first process.

        Args:
            rows: What was measured.
            alone: Whether they are of models that stand alone.
        """
        from rich.console import Console

        from ..evaluate.parallel import is_first
        from ..report.table import all_tables, model_table

        if not is_first():
            return
        if self.values["as_json"]:
            typer.echo("\n".join(row.model_dump_json() for row in rows))
            return
        for table in [model_table(rows)] if alone else all_tables(rows):
            Console().print(table)

    def show_order(self, sources: Sources, order: str | None) -> None:
        """Say which order was used where none was given; last, so that errors are alone.

        Args:
            sources: Teacher and student.
            order: What `--order` says.
        """
        from ..evaluate.parallel import is_first

        if order is None and is_first():
            typer.echo(sources.order_line, err=True)


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, after its own.

    Args:
        command: It has one parameter of type `Measuring`; all others are its own.
    """
    everything = list(inspect.signature(command, eval_str=True).parameters.values())
    own = [each for each in everything if each.annotation is not Measuring]
    [last] = [each for each in everything if each.annotation is Measuring]
    shared = _parameters()

    def wrapped(**values: Any) -> None:
        measuring = Measuring({each.name: values.pop(each.name) for each in shared})
        command(**values, **{last.name: measuring})

    # typer reads the parameters from both.
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped
