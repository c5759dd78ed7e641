"""Boomerang distillation: one distilled student, every model size.

The public names are imported on first use, so that `import boomerang` stays cheap; torch and
transformers are loaded only by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import BoomerangError
from .layers import LayerMap, Member
from .version import __version__

if TYPE_CHECKING:
    from .build import build
    from .distill import distill
    from .distill.recipe import Recipe
    from .evaluate import evaluate
    from .family import Family
    from .student import init_student
else:
    # Modules that can be called (`callable_module`); none imports anything heavy before it is.
    from . import build, distill, evaluate

__all__ = [
    "BoomerangError",
    "Family",
    "LayerMap",
    "Member",
    "Recipe",
    "__version__",
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
