"""Scores that were computed before, as JSON lines, found again by what they are scores of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ResultsError
from ..evaluate.results import append_lines, read_lines

CACHE_FILE = "baselines.jsonl"

_KEYS = {"of", "value"}


class Cache:
    """A file of scores; every score is in it as soon as it is computed, so that a search resumes.

    Args:
        path: The file, made with the first score; None to remember in memory alone.

    Raises:
        ResultsError: The file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        for number, line in read_lines(path) if path is not None and path.exists() else ():
            if not isinstance(line, dict) or line.keys() != _KEYS:
                raise ResultsError("is no score", where=f"{path} line {number}")
            self._values[_key(line["of"])] = line["value"]

    def get(self, of: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The score of something, computed if it is not known.

        Args:
            of: All that the score depends on, told by content: JSON values.
            compute: Gives the score, a JSON value without NaN or infinity.
        """
        key = _key(of)
        if key not in self._values:
            value = compute()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_lines(self._path, [{"of": of, "value": value}])
            self._values[key] = value
        return self._values[key]


def _key(of: object) -> str:
    return json.dumps(of, sort_keys=True)
