"""`boomerang baseline METHOD`: measure what a family is compared with, beside the family."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError
from . import options
from .measuring import Measuring, Results, measuring

if TYPE_CHECKING:
    from ..baselines.bench import Bench

app = typer.Typer(
    help="Measure what a family is compared with; RESULTS is the family's own, or new.",
    no_args_is_help=True,
)

_CALIBRATION = "--calibration"

Layers = Annotated[
    str | None,
    typer.Option(help="Numbers of layers, such as 9,12; by default the family's."),
]
Calibration = Annotated[
    list[Path] | None,
    typer.Option(_CALIBRATION, help="UTF-8 text to calibrate on, all of it; may be repeated."),
]
Save = Annotated[
    Path | None, typer.Option(help="Also write each model as a checkpoint into this directory.")
]
Control = Annotated[
    str, typer.Argument(help="A student distilled from random weights (`init --random`).")
]


@app.command()
@measuring
def naive(
    teacher: options.Teacher,
    student: options.Student,
    results: Results,
    common: Measuring,
    layers: Layers = None,
    order: options.OrderOption = None,
) -> None:
    """The same layers without any distillation, patched in the same order."""
    settings, wanted = common.settings(), _wanted(layers)
    bench = _bench(teacher, student, results, common)

    from ..baselines.naive import evaluate_naive

    patched = _patched(bench, wanted, order)
    common.show(
        evaluate_naive(
            bench.sources.teacher, bench.sources.layers, results, loading=bench.loading,
            **patched, **settings,
        )
    )  # fmt: skip
    common.show_order(bench.sources, order)


@app.command()
@measuring
def random(
    teacher: options.Teacher,
    control: Control,
    results: Results,
    common: Measuring,
    layers: Layers = None,
    order: options.OrderOption = None,
) -> None:
    """A student distilled from random weights with the same recipe, patched in the same order."""
    settings, wanted = common.settings(), _wanted(layers)
    bench = _bench(teacher, control, results, common, weights=True)

    from ..baselines.random import evaluate_random

    patched = _patched(bench, wanted, order)
    common.show(evaluate_random(bench.sources, results, **patched, **bench.loading, **settings))
    common.show_order(bench.sources, order)


@app.command()
@measuring
def shortgpt(
    teacher: options.Teacher,
    student: options.Student,
    results: Results,
    common: Measuring,
    calibration: Calibration = None,
    layers: Layers = None,
    save: Save = None,
) -> None:
    """The layers that change the state least removed, without training (arXiv 2403.03853)."""
    _pruned("shortgpt", teacher, student, results, common, calibration, layers, save)


@app.command()
@measuring
def laco(
    teacher: options.Teacher,
    student: options.Student,
    results: Results,
    common: Measuring,
    calibration: Calibration = None,
    layers: Layers = None,
    save: Save = None,
) -> None:
    """Layers merged from the top down, at the best settings of several (arXiv 2402.11187)."""
    _pruned("laco", teacher, student, results, common, calibration, layers, save)


@app.command()
@measuring
def distilled(
    teacher: options.Teacher,
    student: options.Student,
    results: Results,
    common: Measuring,
    students: Annotated[
        Path, typer.Option(help="The directory for the students, one in it for each size.")
    ],
    layers: Annotated[str, typer.Option(help="Numbers of layers, such as 9,12.")],
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe; by default that of the family's student.")
    ] = None,
) -> None:
    """Students of some sizes, each distilled by itself with the family's recipe and tokens."""
    settings, wanted = common.settings(), _wanted(layers)
    bench = _bench(teacher, student, results, common)
    sizes = bench.sizes(wanted)

    from ..baselines.distilled import SERIES, check_teacher, distil_sizes, family_recipe

    found = family_recipe(bench.sources.directories[1]) if recipe is None else recipe
    check_teacher(found, bench.sources.teacher)
    bench.check(results, **settings)
    made = distil_sizes(found, sizes, bench.sources.layers.num_layers, students)
    models = (bench.checkpoint(SERIES, directory) for directory in made.values())
    common.show(bench.measure(models, results, **settings), alone=True)


@app.command()
@measuring
def pretrained(
    teacher: options.Teacher,
    student: options.Student,
    results: Results,
    common: Measuring,
    model: Annotated[
        list[str], typer.Option(help="A model: a directory or a hub id; may be repeated.")
    ],
) -> None:
    """Models of your own; with another tokenizer, of text only bits per byte can be compared."""
    settings = common.settings()
    bench = _bench(teacher, student, results, common)

    from ..evaluate.results import PRETRAINED

    # All are looked up before the first is measured.
    models = [bench.checkpoint(PRETRAINED, each, own_tokenizer=True) for each in model]
    common.show(bench.measure(models, results, **settings), alone=True)


def _pruned(
    method: str,
    teacher: str,
    student: str,
    results: Path,
    common: Measuring,
    calibration: list[Path] | None,
    layers: str | None,
    save: Path | None,
) -> None:
    settings, wanted = common.settings(), _wanted(layers)
    if not calibration:
        raise DataError("there is nothing to calibrate on", fix=f"give {_CALIBRATION} FILE")
    bench = _bench(teacher, student, results, common)
    sizes = bench.sizes(wanted)

    from ..baselines.pruned import calibration_text, laco_models, shortgpt_models
    from ..baselines.save import save_model
    from ..baselines.score_cache import CACHE_FILE, Cache
    from ..checkpoint.lock import locked
    from ..checkpoint.output import check_apart
    from ..evaluate.parallel import is_first

    if save is not None:
        check_apart(save / "model", teacher, student)

    text = calibration_text(calibration, bench.sources.teacher.tokenizer, bench.model)
    with locked(results, when=is_first()):
        bench.check(results, **settings)
        make = {"shortgpt": shortgpt_models, "laco": laco_models}[method]
        models = make(
            bench.model,
            text,
            sizes,
            teacher_hash=bench.sources.teacher.content_hash,
            cache=Cache(results / CACHE_FILE),
        )
        if save is not None:
            for each in models:
                save_model(each, save, bench.sources.teacher)
        common.show(bench.measure(models, results, **settings), alone=True)


def _patched(bench: Bench, wanted: list[int] | None, order: str | None) -> dict[str, Any]:
    """Members of the wanted sizes and their order, as `boomerang.evaluate` takes them."""
    along = bench.sources.order if order is None else order
    return {"members": bench.members(wanted, along), "order": along}


def _wanted(layers: str | None) -> list[int] | None:
    return None if layers is None else options.layer_list(layers, "--layers")


def _bench(
    teacher: str, student: str, results: Path, common: Measuring, *, weights: bool = False
) -> Bench:
    from ..checkpoint.output import check_apart

    check_apart(results, teacher, student)
    keep, loading = common.keep, common.loading()

    from ..baselines.bench import Bench

    return Bench.open(teacher, student, keep=keep, weights=weights, **loading)
