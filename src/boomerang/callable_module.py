"""Modules that can be called like the function they are named after."""

from __future__ import annotations

import sys
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    # `boomerang.distill` is a function of the public face and a package with modules of its own.
    # One name cannot hold both, and with the function in it, `import boomerang.distill.recipe as r`
    # would look for `recipe` in the function. So the name holds the package, whose class has
    # `__call__`; type checkers see the function (`boomerang/__init__.py`).
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._function(*arguments, **keywords)

    @property
    def _function(self) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> Signature:
        return signature(self._function)


def make_callable(module: str) -> None:
    """Let a module be called: `module(...)` calls the function in it that has the module's name.

    Args:
        module: Its `__name__`.
    """
    sys.modules[module].__class__ = _Callable
