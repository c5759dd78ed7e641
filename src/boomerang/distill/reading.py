"""Recipes as YAML, and single values that replace what they say."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError


class _Loader(yaml.SafeLoader):
    """YAML as everyone means it: `2e-3` is a number, and `no` (as in `save_strategy: no`) a word.

    YAML 1.1 takes the one for text and the other for false.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        character: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a recipe file.

    Raises:
        RecipeError: It cannot be read, or holds no keys.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror})", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"is no YAML ({_one_line(error)})", where=path) from None
    if not isinstance(content, dict):
        raise RecipeError("holds no keys", where=path, fix="write `teacher: ...` and so on")
    return content


def overridden(content: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The keys of a recipe with some values replaced.

    Args:
        content: The keys, left as they are.
        settings: `key=value` each: a key with dots for what is nested, a value in YAML.

    Raises:
        RecipeError: A setting is none.
    """
    result = copy.deepcopy(content)
    for setting in settings:
        _override(result, setting)
    return result


def _override(content: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise RecipeError(f"{setting!r} is no setting", fix="write key=value, such as loss.kl=1")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r} is no YAML ({_one_line(error)})", where=key) from None
    target = content
    for part in path[:-1]:
        inner = target.get(part)
        inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise RecipeError(f"{part} has no keys of its own", where=key)
        target[part] = inner
        target = inner
    target[path[-1]] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
