"""Students of chosen sizes, each distilled by itself with one recipe.

What a family saves: one run for each size instead of one for all (a baseline of arXiv 2510.05064,
section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.sources import Source
from ..distill import Recipe, distill
from ..distill.recipe import FILE_NAME
from ..errors import LayerMapError, RecipeError

SERIES = "distilled"


def evenly_spread(size: int, num_layers: int) -> tuple[int, ...]:
    """The teacher layers a student of a size is cut from: the first, the last, even steps between.

    Layer i of M comes from i (N-1) / (M-1), rounded, halves up.

    Args:
        size: M.
        num_layers: N.

    Raises:
        LayerMapError: M is not below N, or is 0.
    """
    if not 1 <= size < num_layers:
        raise LayerMapError(
            f"{size} of {num_layers} layers cannot be kept", fix=f"give 1 to {num_layers - 1}"
        )
    steps = max(1, size - 1)
    return tuple((2 * i * (num_layers - 1) + steps) // (2 * steps) for i in range(size))


def family_recipe(student: Path) -> Path:
    """The recipe in a student's directory.

    Raises:
        RecipeError: There is none.
    """
    path = student / FILE_NAME
    if not path.is_file():
        raise RecipeError(f"has no {FILE_NAME}", where=student, fix="name the recipe")
    return path


def check_teacher(recipe: str | Path, teacher: Source) -> None:
    """See that a recipe distils the teacher that its students are measured beside.

    Args:
        recipe: Its file.
        teacher: The teacher.

    Raises:
        RecipeError: It cannot be read, or distils another.
        CheckpointError: There is no such teacher.
    """
    read = Recipe.load(recipe)
    named = Source.open(read.teacher, trust_remote_code=read.model.trust_remote_code)
    same = named.directory.samefile(teacher.directory)
    if not same and named.content_hash != teacher.content_hash:
        raise RecipeError(
            f"distils another teacher, {read.teacher}", where=recipe, fix="name that teacher"
        )


def size_recipe(recipe: Recipe, size: int, num_layers: int, out: str | Path) -> Recipe:
    """The recipe for one size: the same text, loss and training; another student and output.

    No members are measured while it trains, no batch crosses between student and teacher, and an
    order that lists a family's student layers is left out: all three serve the family, and crossing
    costs the student itself.

    Args:
        recipe: The family's.
        size: Layers of the student.
        num_layers: Of the teacher.
        out: The directory that holds a directory for each size.

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


def distil_sizes(
    recipe: Recipe | str | Path, sizes: Sequence[int], num_layers: int, out: str | Path
) -> dict[int, Path]:
    """Distil a student of each size, one after the other.

    An interrupted run goes on when called again, and a finished one is left as it is.

    Args:
        recipe: The family's, or its file.
        sizes: Numbers of layers.
        num_layers: Of the teacher.
        out: A directory; each size gets one in it, `9L` for nine layers.

    Returns:
        The students' directories by size.

    Raises:
        LayerMapError: No such size; before anything is trained.
        BoomerangError: As `boomerang.distill`.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    recipes = {size: size_recipe(recipe, size, num_layers, out) for size in sizes}
    return {size: distill(each) for size, each in recipes.items()}
