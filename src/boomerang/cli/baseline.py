"""`boomerang baseline METHOD`: measure what a family is compared with, beside the family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..baselines import BASELINES, Baseline, Kind
from . import options
from .measuring import Measuring, Results

app = typer.Typer(
    help="Measure what a family is compared with; RESULTS is the family's own, or new.",
    no_args_is_help=True,
)

Layers = Annotated[
    str | None,
    typer.Option(help="Numbers of layers, such as 9,12; by default the family's."),
]


@dataclass(frozen=True)
class _Patched:
    layers: Layers = None
    order: options.OrderOption = None


@dataclass(frozen=True)
class _Pruned:
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="UTF-8 text to calibrate on, all of it; may be repeated."),
    ] = None
    layers: Layers = None
    save: Annotated[
        Path | None,
        typer.Option(help="Also write each model as a checkpoint into this directory."),
    ] = None


@dataclass(frozen=True)
class _Distilled:
    students: Annotated[
        Path, typer.Option(help="The directory for the students, one in it for each size.")
    ]
    layers: Annotated[str, typer.Option(help="Numbers of layers, such as 9,12.")]
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe; by default that of the family's student.")
    ] = None


@dataclass(frozen=True)
class _Given:
    model: Annotated[
        list[str], typer.Option(help="A model: a directory or a hub id; may be repeated.")
    ]


_OPTIONS: dict[Kind, Any] = {
    "patched": _Patched,
    "pruned": _Pruned,
    "distilled": _Distilled,
    "given": _Given,
}


def _command(baseline: Baseline) -> Callable[..., None]:
    def command(
        teacher: options.Teacher, student: options.Student, results: Results, chosen: Any,
        common: Measuring,
    ) -> None:  # fmt: skip
        settings, given = common.settings(), asdict(chosen)
        if given.get("layers") is not None:
            given["layers"] = options.layer_list(given["layers"], "--layers")
        keep, loading = common.kept, common.loading.kwargs()

        from ..baselines.bench import Bench

        bench = Bench.open(teacher, student, keep=keep, **loading)
        rows = baseline.run(bench, results, **given, **settings)
        sources = bench.sources if baseline.kind == "patched" else None
        common.show(rows, sources, given.get("order"))

    command.__annotations__["chosen"] = _OPTIONS[baseline.kind]
    return options.grouped(command)


for each in BASELINES.values():
    app.command(each.name, help=each.help)(_command(each))
