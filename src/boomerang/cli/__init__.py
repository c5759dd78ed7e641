"""The command line. One file per command; what is heavy is imported inside the commands."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import typer

from ..errors import BoomerangError, BoomerangWarning
from ..version import __version__
from .baseline import app as baseline
from .build import build
from .demo import demo
from .distill import distill
from .evaluate import evaluate
from .generate import generate
from .init import init
from .inspect import inspect
from .options import one_line
from .report import report
from .sizes import sizes
from .study import study
from .verify import verify

app = typer.Typer(
    name="boomerang",
    help="One distilled student, every model size between it and its teacher.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Newer typers carry a click of their own, and do not export this base class of its errors.
_UsageError: Any = typer.BadParameter.__base__

_MAKE = "Make a family"
_CHOOSE = "Choose and build a member"
_MEASURE = "Measure"

app.command(rich_help_panel=_MAKE)(init)
app.command(rich_help_panel=_MAKE)(distill)
app.command(rich_help_panel=_CHOOSE)(sizes)
app.command(rich_help_panel=_CHOOSE)(generate)
app.command(rich_help_panel=_CHOOSE)(build)
app.command(rich_help_panel=_CHOOSE)(verify)
app.command(rich_help_panel=_MEASURE)(evaluate)
app.command(rich_help_panel=_MEASURE)(report)
app.command(rich_help_panel=_MEASURE)(inspect)
app.add_typer(baseline, name="baseline", rich_help_panel=_MEASURE)
app.command(rich_help_panel=_MEASURE)(study)
app.command(rich_help_panel=_MEASURE)(demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"boomerang {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(
        False,
        "--version",
        callback=_version,
        is_eager=True,
        help="Print the version and stop.",
    ),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: a user's mistake is one line on standard error and exit code 2.

    Args:
        arguments: By default those of this process.
    """
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        os.getcwd()
    except OSError as error:
        raise SystemExit(
            _say(f"the current directory cannot be used ({error.strerror})", 2)
        ) from None
    try:
        code = app(
            list(sys.argv[1:] if arguments is None else arguments) or ["--help"],
            standalone_mode=False,
        )
    except BoomerangError as error:
        code = _say(str(error), 2)
    except _UsageError as error:
        place = error.ctx.command_path if error.ctx is not None else "boomerang"
        code = _say(f"{error.format_message()} (`{place} --help` tells more)", error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        # What the user named, or the disk; errors of the network have no number.
        name = f"{error.filename}: " if error.filename else ""
        code = _say(f"{name}{error.strerror}", 2)
    except (typer.Abort, KeyboardInterrupt):
        code = _say("interrupted", 1)
    raise SystemExit(code)


def _show_warning(
    show: Callable[..., None], message: Warning | str, *arguments: Any, **keywords: Any
) -> None:
    """Show a warning of ours as one line, without the line of code it comes from."""
    if isinstance(message, BoomerangWarning):
        _say_once(f"warning: {message}")
    else:
        show(message, *arguments, **keywords)


@cache
def _say_once(message: str) -> None:
    """Say a line that a command may come by several times: a model is read in several ways."""
    _say(message, 0)


def _say(message: str, code: int) -> int:
    print(f"boomerang: {one_line(message)}", file=sys.stderr)
    return code
