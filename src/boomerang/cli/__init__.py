"""The command line. One file per command; what is heavy is imported inside the commands."""

from __future__ import annotations

import sys

import typer

from .. import __version__
from ..errors import BoomerangError
from .build import build
from .demo import demo
from .distill import distill
from .evaluate import evaluate
from .generate import generate
from .init import init
from .sizes import sizes
from .verify import verify

app = typer.Typer(
    name="boomerang",
    help="One distilled student, every model size between it and its teacher.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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


def main() -> None:
    """Run the command line: a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except BoomerangError as error:
        message = " ".join(str(error).split())
        print(f"boomerang: {message}", file=sys.stderr)
        raise SystemExit(2) from None
