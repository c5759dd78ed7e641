"""Settings from YAML files: reading, single values that replace others, and errors in one line."""

from __future__ import annotations

import copy
import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict

from .errors import RecipeError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class Section(BaseModel):
    """A frozen set of known keys; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Loader(yaml.SafeLoader):
    """YAML as most people mean it.

    YAML 1.1 reads `2e-3` as text and `no` (as in `save_strategy: no`) as false; here they are a
    number and a word. PyYAML silently keeps the last of two equal keys; here that is an error.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        character: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; raises `RecipeError` for a key that is given twice."""
        first: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key
            if name in first:
                what = f"line {line}: {key.value} is given twice, first in line {first[name]}"
                raise RecipeError(what, fix="remove one of the two")
            first[name] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def regular(path: Path) -> Path:
    """Returns a path that can be read without waiting for a writer.

    Raises:
        OSError: There is no such file, or it is a pipe or a device.
    """
    if path.is_fifo() or path.is_char_device() or path.is_block_device() or path.is_socket():
        raise OSError(errno.EINVAL, "it is not a regular file")
    return path


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        RecipeError: The file cannot be read, is not YAML, holds no keys, or one of them twice.
    """
    try:
        text = regular(path).read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror})", where=path) from None
    content = _load(text, path)
    if not isinstance(content, dict):
        raise RecipeError("holds no keys", where=path, fix="write `teacher: ...` and so on")
    return content


def overridden(content: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of keys with some values replaced.

    Args:
        content: The keys.
        settings: `key=value` each: a key with dots for what is nested, a value in YAML.

    Raises:
        RecipeError: A setting is not of this form.
    """
    result = copy.deepcopy(content)
    for setting in settings:
        key, equals, text = setting.partition("=")
        *outer, last = path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            what = f"{setting!r} is not a setting"
            raise RecipeError(what, fix="write key=value, such as loss.kl=1")
        target = result
        for part in outer:
            if target.get(part) is None:
                target[part] = {}
            target = target[part]
            if not isinstance(target, dict):
                raise RecipeError(f"{part} has no keys of its own", where=key)
        target[last] = _load(text, key)
    return result


def merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Keys over others, as a new dict: `own` wins, key by key also inside of dicts."""
    result = {**base, **own}
    for key in base.keys() & own.keys():
        if isinstance(base[key], dict) and isinstance(own[key], dict):
            result[key] = merged(base[key], own[key])
    return result


def _load(text: str | bytes, where: object) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except RecipeError as error:
        raise RecipeError(error.what, where=where, fix=error.fix) from None
    # A date such as 2026-13-45 is a plain ValueError, a key that is a list a TypeError.
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"is not YAML ({reason})", where=where) from None
    except RecursionError:
        raise RecipeError("is not YAML (nested too deeply)", where=where) from None


def as_recipe_error(error: ValidationError, model: type[Any]) -> RecipeError:
    """One of pydantic's complaints in a line: the key, what is wrong, and what is allowed.

    Args:
        error: What pydantic raised.
        model: The class of the settings, a pydantic model or a dataclass, whose keys are suggested.
    """
    # Among the alternatives of a union the one that was meant got furthest.
    first = max(error.errors(), key=lambda complaint: len(complaint["loc"]))
    location = [str(part) for part in first["loc"]]
    unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
    name = location.pop() if unknown else ""
    # Pydantic names the alternatives of a union too: `list[int]`, `KeepEvery`.
    path = [part for part in location if "[" not in part and not part[:1].isupper()]
    key = ".".join(filter(None, [*path, name])) or None
    if unknown:
        for part in path:
            model = next(_models(_types(model).get(part)), model)
        allowed = list(_types(model))
        words = hint(name, allowed) or f"; allowed are {', '.join(allowed)}"
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


def _types(model: type[Any]) -> dict[str, Any]:
    """The type of each key."""
    if issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    hints = get_type_hints(model)
    return {field.name: hints[field.name] for field in fields(model)}


def _models(annotation: Any) -> Iterator[type[Any]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or is_dataclass(annotation)
    ):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
