"""What pydantic has to say about a recipe, in one line that names the key and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from ..errors import RecipeError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


def as_recipe_error(error: ValidationError, model: type[BaseModel]) -> RecipeError:
    """The complaint that says most, as an error of ours.

    Args:
        error: What pydantic raised.
        model: The class of the recipe, whose keys are suggested.
    """
    # Of the alternatives of a union the one that was meant got furthest.
    first = max(error.errors(), key=lambda complaint: len(complaint["loc"]))
    path = _path(first["loc"], model)
    key = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        allowed = _keys(path[:-1], model)
        words = hint(path[-1], allowed) or f"; allowed are {', '.join(allowed)}"
        return RecipeError(f"unknown key{words}", where=key)
    if first["type"] == "missing":
        return RecipeError("is missing", where=key)
    if first["type"] == "value_error":
        return RecipeError(str(first["ctx"]["error"]), where=key)
    return RecipeError(complaint(first), where=key)


def hint(key: str, allowed: Iterable[str]) -> str:
    """The allowed key that was probably meant, as the end of a sentence; may be empty."""
    near = difflib.get_close_matches(key, list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def complaint(error: ErrorDetails) -> str:
    """What pydantic says about a value, with the value."""
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{message}, not {error['input']!r}"


def _path(location: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """A place as a user writes it: without the names of a union's alternatives."""
    path: list[str] = []
    for part in location:
        name = str(part)
        tag = bool(path) and ("[" in name or name in {m.__name__ for m in _nested(model)})
        if not tag:
            path.append(name)
    return path


def _keys(path: Sequence[str], model: type[BaseModel]) -> list[str]:
    """The keys that are allowed at a place."""
    for part in path:
        field = model.model_fields.get(part)
        inner = [] if field is None else list(_models(field.annotation))
        if inner:
            model = inner[-1]
    return list(model.model_fields)


def _nested(model: type[BaseModel]) -> set[type[BaseModel]]:
    """All models that the fields of a model are made of."""
    direct = {m for field in model.model_fields.values() for m in _models(field.annotation)}
    return direct.union(*map(_nested, direct))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
