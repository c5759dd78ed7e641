"""The output directory of an evaluation: its settings, scores by window, and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..checkpoint.output import write_text
from ..errors import OutputError, ResultsError
from ..layers import Member
from .documents import Text
from .jsonl import append_lines, read_lines
from .members import MemberScore
from .perplexity import Scores
from .results import RESULTS_FILE, Row, append_results, read_results

SETTINGS_FILE = "evaluation.json"
SCORES_FILE = "scores.jsonl"


class StoredScore(BaseModel):
    """A line of `scores.jsonl`: a member's negative log-likelihoods, in nats, window by window."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    student: str
    member: tuple[int, ...]
    parameters: int
    bytes: int
    nll: tuple[float, ...]


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
        stored = _read_scores(self._scores_file) if self._scores_file.exists() else []
        self._scores = {(score.student, score.member): score for score in stored}

    def score(self, student: str, member: Member, text: Text) -> MemberScore | None:
        """What was measured of a member of the student with this content hash, if it was."""
        stored = self._scores.get((student, member.patched))
        if stored is None:
            return None
        tokens = np.array([float(len(window.targets)) for window in text.windows])
        scores = Scores(np.array(stored.nll), tokens, text.num_bytes)
        return MemberScore(member, stored.parameters, stored.bytes, scores)

    def add_score(self, student: str, score: MemberScore) -> None:
        """Keep what was measured of a member."""
        stored = StoredScore(
            student=student,
            member=score.member.patched,
            parameters=score.parameters,
            bytes=score.bytes,
            nll=tuple(score.scores.nll.tolist()),
        )
        append_lines(self._scores_file, [stored.model_dump()])
        self._scores[student, stored.member] = stored

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


def _read_scores(path: Path) -> list[StoredScore]:
    scores = []
    for number, value in read_lines(path):
        try:
            scores.append(StoredScore.model_validate(value))
        except ValidationError as error:
            field = ".".join(str(part) for part in error.errors()[0]["loc"])
            where = f"{path} line {number}"
            raise ResultsError(f'field "{field}" is missing or broken', where=where) from None
    return scores
