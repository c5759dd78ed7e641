"""The options of every command that measures: on what, how, and how models are loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from . import options

if TYPE_CHECKING:
    from ..checkpoint.pairing import Pairing
    from ..evaluate.results import Row

Results = Annotated[Path, typer.Argument(help="The directory for results.jsonl.")]

_TASKS = "Tasks of lm-evaluation-harness"
_LOADING = ("device", "dtype", "attn_implementation", "trust_remote_code")


def _options(
    text: Annotated[
        list[Path] | None, typer.Option(help="UTF-8 text to measure on; may be repeated.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks, groups or patterns, separated by commas; paper is the paper's suite.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="The most positions a member sees at once (default 2048)."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens scored per window (default half the window).")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Sequences at a time (default: a reasonable number of tokens)."),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(help="A directory with task files of your own.", rich_help_panel=_TASKS),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            help="Documents of each task, or a share of them below 1.", rich_help_panel=_TASKS
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(help="Examples before each question.", rich_help_panel=_TASKS),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Put prompts into the tokenizer's chat template.",
            rich_help_panel=_TASKS,
        ),
    ] = False,
    system_instruction: Annotated[
        str | None, typer.Option(help="Said before each prompt.", rich_help_panel=_TASKS)
    ] = None,
    gen_kwargs: Annotated[
        str | None,
        typer.Option(
            help="Options of generation, as max_gen_toks=64,temperature=0.", rich_help_panel=_TASKS
        ),
    ] = None,
    log_samples: Annotated[
        bool,
        typer.Option(
            "--log-samples",
            help="Write what each member answered, under OUT/samples.",
            rich_help_panel=_TASKS,
        ),
    ] = False,
    keep: options.Kept = None,
    as_json: options.Json = False,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    attn_implementation: options.Attention = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None: ...


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
            DataError: There is nothing to measure on.
        """
        left_out = {"text", "as_json", "keep", *_LOADING}
        settings = {key: value for key, value in self.values.items() if key not in left_out}
        settings |= {"texts": self.values["text"] or (), "tasks": self.values["tasks"] or ()}
        if not settings["texts"] and not settings["tasks"]:
            raise DataError(
                "there is nothing to measure on", fix="give --text FILE or --tasks NAMES"
            )
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
        return options.model_kwargs(*(self.values[key] for key in _LOADING))

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

    def show_order(self, pairing: Pairing, order: str | None) -> None:
        """Say which order was used where none was given; last, so that errors are alone.

        Args:
            pairing: How teacher and student go together.
            order: What `--order` says.
        """
        from ..evaluate.parallel import is_first

        if order is None and is_first():
            typer.echo(str(pairing), err=True)


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, after its own.

    Args:
        command: It has one parameter of type `Measuring`; all others are its own.
    """
    everything = list(inspect.signature(command, eval_str=True).parameters.values())
    own = [each for each in everything if each.annotation is not Measuring]
    [last] = [each for each in everything if each.annotation is Measuring]
    shared = list(inspect.signature(_options, eval_str=True).parameters.values())

    def wrapped(**values: Any) -> None:
        measuring = Measuring({each.name: values.pop(each.name) for each in shared})
        command(**values, **{last.name: measuring})

    # typer reads the parameters from both.
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *shared)]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped
