"""Sizes as people write them."""

from __future__ import annotations

import re

from .errors import BoomerangError

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")
_BYTES = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("", 1000), ("ib", 1024))
}
_COUNT_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_bytes(size: int | float | str, where: str) -> int:
    """A number of bytes: `8GiB` (1024³), `8GB` (1000³), `500MB`, or a plain number.

    Raises:
        BoomerangError: It is no such size; `where` names the option.
    """
    return _parse(size, _BYTES, where, "write it as 8GiB, 500MB or a number of bytes")


def parse_count(count: int | float | str, where: str) -> int:
    """A number of parameters: `3.2B`, `350M`, or a plain number.

    Raises:
        BoomerangError: It is no such number; `where` names the option.
    """
    return _parse(count, _COUNTS, where, "write it as 3.2B, 350M or a number")


def show_bytes(size: int) -> str:
    """A size for people: GiB, MiB or KiB with two decimals."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.2f} {unit}"
    return f"{size} B"


def show_count(count: int) -> str:
    """A number of parameters for people: billions, millions or thousands with three decimals."""
    for value, unit in _COUNT_UNITS:
        if count >= value:
            return f"{count / value:.3f}{unit}"
    return str(count)


def show_count_briefly(count: int) -> str:
    """The same with three significant digits, where measurements stand beside it."""
    rounded = float(f"{count:.2e}")
    for value, unit in _COUNT_UNITS:
        if rounded >= value:
            whole = len(str(int(rounded / value)))
            return f"{rounded / value:.{max(0, 3 - whole)}f}{unit}"
    return str(count)


def _parse(value: int | float | str, units: dict[str, int], where: str, fix: str) -> int:
    found = _NUMBER.fullmatch(str(value))
    unit = units.get(found[2].lower()) if found else None
    if found is None or unit is None or float(found[1]) == float("inf"):
        raise BoomerangError(f"{value!r} is no size", where=where, fix=fix)
    result = float(found[1]) * unit
    if result < 1:
        raise BoomerangError(f"{value!r} is less than one", where=where, fix=fix)
    return int(result)
