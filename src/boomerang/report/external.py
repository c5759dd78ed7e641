"""Measurements of other models from a CSV file, to stand beside the family."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from ..errors import ResultsError
from ..settings import regular
from .sources import LARGEST

_COLUMNS = "name, parameters, task, metric and value, and if wanted stderr, bytes and layers"

_Text = Annotated[str, Field(min_length=1)]
_Whole = Annotated[int, Field(ge=1, lt=1 << 63)]
_Value = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
# An empty cell is a value that is not known.
_EMPTY = BeforeValidator(lambda cell: None if cell == "" else cell)


@dataclass(
    frozen=True,
    config=ConfigDict(extra="forbid", str_strip_whitespace=True, allow_inf_nan=False),
)
class External:
    """One value of a model outside the family; `None` where `stderr`, bytes or layers are unknown.

    Raises:
        ValidationError: A value is not of its type, or out of range.
    """

    name: _Text
    parameters: _Whole
    task: _Text
    metric: _Text
    value: _Value
    stderr: Annotated[float | None, Field(ge=0, le=LARGEST), _EMPTY] = None
    bytes: Annotated[_Whole | None, _EMPTY] = None
    layers: Annotated[_Whole | None, _EMPTY] = None


def read_external(path: str | Path) -> Sequence[External]:
    """The measurements in a CSV file (UTF-8), whose first line names the columns in any order.

    Raises:
        ResultsError: The file cannot be read, or has other columns, no lines, a broken cell, or a
            value twice; names file, line and column.
    """
    path = Path(path)
    found: dict[tuple[object, ...], External] = {}
    try:
        with regular(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames or ()
            if len({*names}) < len(names):
                raise ResultsError("names a column twice", where=path)
            for cells in reader:
                one = _external(cells, f"{path} line {reader.line_num}")
                key = (one.name, one.parameters, one.task, one.metric)
                if key in found:
                    what = f"has {one.metric} on {one.task} of {one.name!r} twice"
                    raise ResultsError(what, where=path)
                found[key] = one
    except OSError as error:
        raise ResultsError(f"cannot be read ({error.strerror})", where=path) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"is not CSV in UTF-8 ({error})", where=path) from None
    if not found:
        raise ResultsError("has no lines below its columns", where=path)
    return list(found.values())


def _external(cells: dict[Any, Any], where: str) -> External:
    # csv keeps cells beyond the last column under None, and lacking ones as None.
    if None in cells or None in cells.values():
        raise ResultsError("has another number of cells than there are columns", where=where)
    try:
        return External(**cells)
    except ValidationError as error:
        first = error.errors()[0]
        what = f'column "{first["loc"][0]}" is {first["input"]!r}: {first["msg"].lower()}'
        if first["type"] == "missing":
            what = f'column "{first["loc"][0]}" is missing'
        raise ResultsError(what, where=where, fix=f"the columns are {_COLUMNS}") from None
