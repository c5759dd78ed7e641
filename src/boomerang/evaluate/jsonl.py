"""Files of JSON lines that survive a kill: lines are written whole, a torn last one is mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ResultsError

# How much of a file's end is read at least, to find its last line.
_BLOCK = 1 << 16


def read_lines(path: str | Path) -> list[tuple[int, Any]]:
    """Every line of a file of JSON lines; empty lines and a torn last line are passed over.

    Args:
        path: The file.

    Returns:
        Pairs (line number from 1, parsed value); `NaN` and `Infinity` are parsed as floats.

    Raises:
        ResultsError: The file cannot be read, or a line other than a torn last one is not JSON.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"cannot be read ({error.strerror})", where=path) from None
    lines = data.split(b"\n")
    if not _is_json(lines[-1]):
        lines.pop()
    return [
        (number, _parse(line, path, number))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def append_lines(path: str | Path, values: Iterable[Any]) -> None:
    """Add lines to a file of JSON lines, made if need be; a torn last line is cut off first.

    What was written has reached the disk when this returns.

    Args:
        path: The file.
        values: What to write, one line each; NaN and infinities are refused.

    Raises:
        ValueError: A value holds a NaN or an infinity.
    """
    lines = [json.dumps(value, allow_nan=False).encode() + b"\n" for value in values]
    if not lines:
        return
    with Path(path).open("a+b") as file:
        length = file.seek(0, os.SEEK_END)
        tail = _last_line(file, length)
        if not _is_json(tail):
            file.truncate(length - len(tail))
        elif tail:
            file.write(b"\n")
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _last_line(file: BinaryIO, length: int) -> bytes:
    """What follows the last line break; only the end of the file is read."""
    tail = b""
    while length and b"\n" not in tail:
        start = max(0, length - max(_BLOCK, len(tail)))
        file.seek(start)
        tail = file.read(length - start) + tail
        length = start
    return tail.rpartition(b"\n")[2]


def _is_json(tail: bytes) -> bool:
    """Whether a last line is whole: no part of a JSON object is valid JSON."""
    try:
        json.loads(tail or b"null")
    except ValueError:
        return False
    return True


def _parse(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ResultsError(f"is not JSON ({error})", where=f"{path} line {number}") from None
