"""Measurements of other models from a CSV file, to stand beside the family."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import ResultsError
from .sources import can_be_drawn

_REQUIRED = ("name", "parameters", "task", "metric", "value")
_OPTIONAL = ("stderr", "bytes", "layers")
_COLUMNS = (*_REQUIRED, *_OPTIONAL)

_TOO_MANY = 1 << 63

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class External:
    """One measured value of a model that is no member of a family.

    Args:
        name: The model.
        parameters: Numbers stored.
        task: As in the results it stands beside.
        metric: The same.
        value: The value; finite.
        stderr: Its standard error, or None.
        bytes: Of the weights, or None.
        layers: The number of layers, or None.
    """

    name: str
    parameters: int
    task: str
    metric: str
    value: float
    stderr: float | None
    bytes: int | None
    layers: int | None


def read_external(path: str | Path) -> list[External]:
    """The measurements in a CSV file.

    The first line names the columns, in any order: `name`, `parameters`, `task`, `metric` and
    `value`, and if wanted `stderr`, `bytes` and `layers`, whose cells may be empty.

    Args:
        path: The file, UTF-8.

    Raises:
        ResultsError: It cannot be read, or has other columns, no lines, or a broken cell; names
            file, line and column.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(list(reader.fieldnames or ()), path)
            found = [_measurement(line, f"{path} line {reader.line_num}") for line in reader]
    except OSError as error:
        raise ResultsError(f"cannot be read ({error.strerror})", where=path) from None
    except UnicodeDecodeError:
        raise ResultsError("is not UTF-8 text", where=path) from None
    except csv.Error as error:
        raise ResultsError(f"is no CSV ({error})", where=path) from None
    if not found:
        raise ResultsError("has no lines below its columns", where=path)
    keys = [(each.name, each.parameters, each.task, each.metric) for each in found]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ResultsError(f"has {twice[3]} on {twice[2]} of {twice[0]!r} twice", where=path)
    return found


def _check_columns(names: list[str], path: Path) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    unknown = [name for name in names if name not in _COLUMNS]
    twice = [name for name in names if names.count(name) > 1]
    for what, wrong in (("lacks", missing), ("has unknown", unknown), ("repeats", twice)):
        if wrong:
            raise ResultsError(
                f"{what} column {wrong[0]!r}",
                where=path,
                fix=f"its columns are {', '.join(_REQUIRED)}; {', '.join(_OPTIONAL)} if wanted",
            )


def _measurement(line: dict[str, str | None], where: str) -> External:
    # csv keeps cells beyond the last column under None, and lacking ones as None.
    if None in line or None in line.values():
        raise ResultsError("has another number of cells than there are columns", where=where)
    cells = {name: (value or "").strip() for name, value in line.items()}
    for name in ("name", "task", "metric"):
        if not cells[name]:
            raise ResultsError(f'column "{name}" is empty', where=where)
    parameters = _number(cells, "parameters", int, where)
    value = _number(cells, "value", float, where)
    if parameters is None or value is None:
        empty = "parameters" if parameters is None else "value"
        raise ResultsError(f'column "{empty}" is empty', where=where)
    return External(
        name=cells["name"],
        parameters=parameters,
        task=cells["task"],
        metric=cells["metric"],
        value=value,
        stderr=_number(cells, "stderr", float, where),
        bytes=_number(cells, "bytes", int, where),
        layers=_number(cells, "layers", int, where),
    )


def _number(
    cells: dict[str, str], name: str, kind: Callable[[str], _Number], where: str
) -> _Number | None:
    text = cells.get(name, "")
    if not text:
        return None
    try:
        number = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ResultsError(f'column "{name}" is {text!r} and not {what}', where=where) from None
    if kind is float and not math.isfinite(number):
        raise ResultsError(f'column "{name}" is not a finite number', where=where)
    if (name == "stderr" and number < 0) or (kind is int and number < 1):
        raise ResultsError(f'column "{name}" is {text}, which is too small', where=where)
    if number >= _TOO_MANY if kind is int else not can_be_drawn(number, None):
        raise ResultsError(f'column "{name}" is {text}, which cannot be', where=where)
    return number
