"""What the commands share that measure: their options, and how they show rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluate.options import Measure
from . import options

if TYPE_CHECKING:
    from ..checkpoint.sources import Sources
    from ..evaluate.results import Row

Results = Annotated[Path, typer.Argument(help="The directory for results.jsonl.")]


@dataclass(frozen=True)
class Measuring:
    """What to measure on, and how models are loaded."""

    measure: Measure
    loading: options.Loading
    keep: options.Kept = None
    as_json: options.Json = False

    def settings(self) -> dict[str, Any]:
        """What to measure on, as `boomerang.evaluate` takes it; raises as `Measure.of`."""
        settings = {name: getattr(self.measure, name) for name in Measure.names()}
        Measure.of(settings)
        return settings

    @property
    def kept(self) -> list[int] | None:
        """The teacher layers that the student keeps; raises `LayerMapError`."""
        return options.kept_layers(self.keep)

    def show(self, rows: list[Row], sources: Sources | None, order: str | None) -> None:
        """Print rows, as tables or as JSON lines; only in the first process.

        Args:
            rows: What was measured.
            sources: The family; None for rows of models that stand alone.
            order: What `--order` says. Without it the order that was used is shown last.
        """
        from rich.console import Console

        from ..evaluate.parallel import is_first
        from ..report.table import all_tables, model_table

        if not is_first():
            return
        if self.as_json:
            typer.echo("\n".join(row.model_dump_json() for row in rows))
        else:
            for table in [model_table(rows)] if sources is None else all_tables(rows):
                Console().print(table)
        if sources is not None and order is None:
            typer.echo(sources.order_line, err=True)
