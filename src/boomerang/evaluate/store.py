"""The output directory of an evaluation: its settings, scores by window, and rows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..checkpoint.output import write_text
from ..errors import OutputError, ResultsError
from ..layers import Member
from .documents import Text
from .jsonl import append_lines, read_lines
from .members import MemberScore
from .results import RESULTS_FILE, Row, append_results, read_results

SETTINGS_FILE = "evaluation.json"
SCORES_FILE = "scores.jsonl"


class StoredScore(BaseModel):
    """A line of `scores.jsonl`: a member's negative log-likelihoods, in nats, of some windows."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    student: str
    member: tuple[int, ...]
    parameters: int
    bytes: int
    windows: tuple[int, ...]
    nll: tuple[float, ...]

    @model_validator(mode="after")
    def _one_value_each(self) -> StoredScore:
        if len(self.windows) != len(self.nll):
            raise ValueError("not as many values as windows")
        return self


@dataclass
class _Measured:
    """What is known of a member: its size, and a value by window."""

    parameters: int
    bytes: int
    nll: dict[int, float] = field(default_factory=dict)


class Store:
    """An output directory that is continued when its settings are the same.

    Args:
        out: The directory; made if need be.
        settings: What makes two evaluations comparable, as JSON values.

    Raises:
        OutputError: `out` cannot be written, or holds an evaluation with other settings.
        ResultsError: A file in it is damaged.
    """

    def __init__(self, out: str | Path, settings: Mapping[str, Any]) -> None:
        out = Path(out)
        self.results = out / RESULTS_FILE
        self._scores_file = out / SCORES_FILE
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=out) from None
        path = out / SETTINGS_FILE
        if path.exists():
            _check_same(_read_settings(path), settings, out)
        elif self.results.exists():
            raise OutputError(
                f"has results but no {SETTINGS_FILE}", where=out, fix="name another directory"
            )
        else:
            write_text(path, json.dumps(settings, indent=2) + "\n")
        self._rows = set(read_results(self.results)) if self.results.exists() else set()
        self._unwritten: list[StoredScore] = []
        self._written = time.monotonic()
        self._measured: dict[tuple[str, tuple[int, ...]], _Measured] = {}
        if self._scores_file.exists():
            for stored in _read_scores(self._scores_file):
                self._remember(stored)

    def missing(self, student: str, member: Member, text: Text) -> tuple[int, ...]:
        """The windows of the text on which a member has not been measured."""
        measured = self._measured.get((student, member.patched))
        done = measured.nll if measured else {}
        return tuple(index for index in range(len(text.windows)) if index not in done)

    def score(self, student: str, member: Member, text: Text) -> MemberScore | None:
        """What was measured of a member of the student with this content hash, if all was."""
        if self.missing(student, member, text):
            return None
        measured = self._measured[student, member.patched]
        nll = np.array([measured.nll[index] for index in range(len(text.windows))])
        return MemberScore(member, measured.parameters, measured.bytes, text.scores(nll))

    def add_score(self, score: StoredScore) -> None:
        """Note what was measured of a member; `write` brings it to the disk."""
        self._remember(score)
        self._unwritten.append(score)

    def write(self, least_seconds: float = 0) -> None:
        """Write the scores that were added since the last time.

        Args:
            least_seconds: Not if the last time is less long ago.
        """
        now = time.monotonic()
        if now - self._written >= least_seconds:
            append_lines(self._scores_file, [s.model_dump() for s in _joined(self._unwritten)])
            self._unwritten.clear()
            self._written = now

    def _remember(self, score: StoredScore) -> None:
        key = (score.student, score.member)
        measured = self._measured.setdefault(key, _Measured(score.parameters, score.bytes))
        measured.nll.update(zip(score.windows, score.nll, strict=True))

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add rows to the results, except those that stand there already."""
        new = [row for row in rows if row not in self._rows]
        append_results(self.results, new)
        self._rows.update(new)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be read as JSON ({error})", where=path) from None
    if not isinstance(settings, dict):
        raise ResultsError("is no JSON object", where=path)
    return settings


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], out: Path) -> None:
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if differing:
        details = ", ".join(
            f"{key} is {there.get(key)} there and {here.get(key)} here" for key in differing
        )
        raise OutputError(
            f"holds another evaluation: {details}", where=out, fix="name another directory"
        )


def _joined(scores: Iterable[StoredScore]) -> list[StoredScore]:
    """The same scores, those of a member as one."""
    of_member: dict[tuple[str, tuple[int, ...]], list[StoredScore]] = {}
    for score in scores:
        of_member.setdefault((score.student, score.member), []).append(score)
    return [
        parts[0].model_copy(
            update={
                "windows": tuple(window for part in parts for window in part.windows),
                "nll": tuple(value for part in parts for value in part.nll),
            }
        )
        for parts in of_member.values()
    ]


def _read_scores(path: Path) -> list[StoredScore]:
    scores = []
    for number, value in read_lines(path):
        try:
            scores.append(StoredScore.model_validate(value))
        except ValidationError as error:
            name = ".".join(str(part) for part in error.errors()[0]["loc"]) or "nll"
            where = f"{path} line {number}"
            raise ResultsError(f'field "{name}" is missing or broken', where=where) from None
    return scores
