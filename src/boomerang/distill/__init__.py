"""Distillation: the recipe, the text, the losses, the module that runs both models, the trainer.

Importing this package is cheap; torch and transformers come with the first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..callable_module import make_callable

if TYPE_CHECKING:
    from .recipe import Recipe

__all__ = ["Recipe", "distill"]


def distill(recipe: Recipe | str | Path) -> Path:
    """Distil a student as a `Recipe`, or a YAML file of one, says; continues an interrupted run.

    Returns:
        The output directory: a plain transformers checkpoint with `student_config.json`,
        `recipe.yaml`, `inputs.json` (hashes of what the recipe names) and `log.jsonl`.

    Raises:
        BoomerangError: A mistake in the recipe, the models, the text or the output.
    """
    from .run import distill as run

    return run(recipe)


def __getattr__(name: str) -> Any:
    if name == "Recipe":
        from .recipe import Recipe

        return Recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__)
