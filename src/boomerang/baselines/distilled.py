"""Students of chosen sizes, each distilled by itself with one recipe.

A family saves these runs: it needs one for all sizes (a baseline of arXiv 2510.05064, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.sources import Source
from ..distill import Recipe, distill
from ..distill.recipe import FILE_NAME
from ..errors import RecipeError
from ..evaluate.results import Row
from . import check_size

if TYPE_CHECKING:
    from .bench import Bench

SERIES = "distilled"


def run(
    bench: Bench,
    results: str | Path,
    *,
    students: str | Path,
    layers: Sequence[int],
    recipe: Path | None = None,
    **settings: Any,
) -> list[Row]:
    """Distil a student of each size, and measure them.

    Args:
        bench: The family they are compared with.
        results: The directory of the family's own evaluation, or a new one.
        students: A directory for the students: `9L` in it for nine layers.
        layers: The sizes, as numbers of layers.
        recipe: The recipe's file; by default the one beside the family's student.
        **settings: What to measure on, the fields of `evaluate.options.Measure`.

    Raises:
        RecipeError: There is no recipe, or it distils another teacher.
        BoomerangError: As in `boomerang.distill` and `boomerang.evaluate`.
    """
    sizes = bench.sizes(layers)
    path = recipe or family_recipe(bench.sources.directories[1])
    check_teacher(path, bench.sources.teacher)
    bench.check(results, **settings)
    made = distil_sizes(path, sizes, bench.sources.layers.num_layers, students)
    models = (bench.checkpoint(SERIES, directory) for directory in made.values())
    return bench.measure(models, results, **settings)


def distil_sizes(
    recipe: Recipe | str | Path, sizes: Sequence[int], num_layers: int, out: str | Path
) -> dict[int, Path]:
    """The directories of students by size, distilled one after the other into `OUT/9L` and so on.

    An interrupted run is continued when called again, and a finished one is left as it is.

    Raises:
        LayerMapError: No such size; before anything is trained.
        BoomerangError: As in `boomerang.distill`.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    recipes = {size: size_recipe(recipe, size, num_layers, out) for size in sizes}
    return {size: distill(each) for size, each in recipes.items()}


def size_recipe(recipe: Recipe, size: int, num_layers: int, out: str | Path) -> Recipe:
    """The family's recipe for one size: the same text, loss and training.

    It measures no members, crosses no batch between student and teacher, and drops an order that
    lists the family's student layers: these serve the family, and crossing costs the student.

    Raises:
        LayerMapError: No such size.
    """
    content = recipe.model_dump()
    listed = isinstance(recipe.order, list)
    return Recipe(
        **content
        | {
            "student": None,
            "keep": list(evenly_spread(size, num_layers)),
            "out": str(Path(out) / f"{size}L"),
            "order": None if listed else recipe.order,
            "switch": 0,
            "mirror": 0,
            "evaluate": content["evaluate"] | {"members": []},
        }
    )


def evenly_spread(size: int, num_layers: int) -> tuple[int, ...]:
    """The teacher layers of a student of a size: the first, the last, and even steps between.

    Layer i of a size M is layer i (N-1) / (M-1) of the teacher's N, rounded, halves up.

    Raises:
        LayerMapError: M is not below N, or is 0.
    """
    check_size(size, num_layers)
    steps = max(1, size - 1)
    return tuple((2 * i * (num_layers - 1) + steps) // (2 * steps) for i in range(size))


def family_recipe(student: Path) -> Path:
    """The recipe in a student's directory; raises `RecipeError` if there is none."""
    path = student / FILE_NAME
    if not path.is_file():
        raise RecipeError(f"has no {FILE_NAME}", where=student, fix="name the recipe")
    return path


def check_teacher(recipe: str | Path, teacher: Source) -> None:
    """Refuse a recipe of another teacher.

    Raises:
        RecipeError: It cannot be read, or distils another teacher.
        CheckpointError: There is no such teacher.
    """
    read = Recipe.load(recipe)
    named = Source.open(read.teacher, trust_remote_code=read.model.trust_remote_code)
    same = named.directory.samefile(teacher.directory)
    if not same and named.content_hash != teacher.content_hash:
        raise RecipeError(
            f"distils another teacher, {read.teacher}", where=recipe, fix="name that teacher"
        )
