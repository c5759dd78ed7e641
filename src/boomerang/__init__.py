"""Boomerang distillation: one distilled student, every model size.

The public names are imported on first use, so that `import boomerang` stays cheap; torch and
transformers are loaded only by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# A function of the same name as its module must be bound here at once: importing the module later
# would put the module in its place. These three import nothing heavy before they are called.
from .build import build
from .distill import distill
from .errors import BoomerangError
from .evaluate import evaluate
from .layers import LayerMap, Member

if TYPE_CHECKING:
    from .distill.recipe import Recipe
    from .family import Family
    from .student import init_student

__version__ = "0.1.0"

__all__ = [
    "BoomerangError",
    "Family",
    "LayerMap",
    "Member",
    "Recipe",
    "build",
    "distill",
    "evaluate",
    "init_student",
]

_HOMES = {
    "Family": "family",
    "Recipe": "distill.recipe",
    "init_student": "student",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
