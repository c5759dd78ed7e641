"""The output directory of an evaluation: its settings, answers by item, outcomes, and rows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..checkpoint.output import check_writable, write_text
from ..errors import OutputError, ResultsError
from ..layers import Member
from .jsonl import append_lines, read_lines
from .results import RESULTS_FILE, Row, append_results, current, read_results
from .task import Answer, TaskItems

SETTINGS_FILE = "evaluation.json"
SCORES_FILE = "scores.jsonl"
OUTCOMES_FILE = "outcomes.jsonl"

_Key = tuple[str, tuple[int, ...], str]


class _Line(BaseModel):
    """What was measured of a member of a student (a content hash) on a task (`content`)."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    student: str
    member: tuple[int, ...]
    task: str

    @property
    def key(self) -> _Key:
        return (self.student, self.member, self.task)


class StoredAnswers(_Line):
    """A line of `scores.jsonl`: a member's answers to some items of a task."""

    items: tuple[int, ...]
    answers: tuple[Answer, ...]

    @model_validator(mode="after")
    def _one_answer_each(self) -> StoredAnswers:
        if len(self.items) != len(self.answers):
            raise ValueError("not as many answers as items")
        return self


class Outcome(_Line):
    """A line of `outcomes.jsonl`: what lm-evaluation-harness made of a member's answers.

    Attributes:
        documents: The number of documents.
        values: For each metric and filter (as `acc,none`) the value and its standard error.
        by_document: What a metric was computed from, where it can be paired with another member's:
            for each document a number, or a sum and its weight.
    """

    documents: int
    values: dict[str, tuple[float, float | None]]
    by_document: dict[str, tuple[float | tuple[float, float], ...]]

    @model_validator(mode="after")
    def _every_document(self) -> Outcome:
        if any(len(each) != self.documents for each in self.by_document.values()):
            raise ValueError("not as many numbers as documents")
        return self


class Store:
    """An output directory, continued for the same teacher, kept layers and dtype.

    Tasks may be added; one that is there must be asked with the settings it was asked with. These
    are recorded with its first answers: a run that measured nothing binds nobody.

    Args:
        out: The directory; made if need be.
        settings: What makes any two tasks comparable, as JSON values.
        tasks: The tasks of this run.
        groups: The settings of groups of tasks by name.
        part: Which of the processes that share an evaluation writes; each writes its own answers.

    Raises:
        OutputError: `out` cannot be written, or holds an evaluation with other settings.
        ResultsError: A file in it is damaged.
    """

    def __init__(
        self,
        out: str | Path,
        settings: Mapping[str, Any],
        tasks: Sequence[TaskItems],
        *,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        part: int = 0,
    ) -> None:
        self.out = Path(out)
        self.results = self.out / RESULTS_FILE
        self._scores_file = self.out / (f"scores.{part}.jsonl" if part else SCORES_FILE)
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=self.out) from None
        check_writable(self.out)
        self._settings = dict(settings)
        of_tasks = {each.task: each.settings for each in tasks}
        self._tasks = {name: dict(each) for name, each in {**of_tasks, **(groups or {})}.items()}
        self._names = [(each.task, each.content) for each in tasks]
        self._recorded: set[str] = set()
        self._check()
        there = read_results(self.results) if self.results.exists() else []
        self._rows = set(current(there))
        self._unwritten: dict[_Key, dict[int, Answer]] = {}
        self._written = time.monotonic()
        self._wanted = {each.content for each in tasks}
        self._answers: dict[_Key, dict[int, Answer]] = {}
        self.read_answers()
        outcomes = self.out / OUTCOMES_FILE
        lines = _read(outcomes, Outcome) if outcomes.exists() else []
        self._outcomes = {line.key: line for line in lines}

    def _check(self) -> dict[str, Any]:
        """The settings that are recorded; none may be other than those of this run."""
        path = self.out / SETTINGS_FILE
        if path.exists():
            there = _read_settings(path)
            _check_same(there, {**self._settings, "tasks": self._tasks}, self.out)
            return there
        if self.results.exists():
            raise OutputError(
                f"has results but no {SETTINGS_FILE}", where=self.out, fix="name another directory"
            )
        return {}

    def _record(self, names: Iterable[str]) -> None:
        """Record the settings of tasks, which is due before anything that was measured of them."""
        new = {name: self._tasks[name] for name in names if name in self._tasks}
        if new.keys() <= self._recorded:
            return
        # Read anew: other processes of this evaluation record their tasks too.
        there = self._check()
        settings = {**self._settings, "tasks": {**there.get("tasks", {}), **new}}
        if there != settings:
            write_text(self.out / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
        self._recorded |= new.keys()

    def missing(self, student: str, member: Member, items: TaskItems) -> tuple[int, ...]:
        """The items of a task that a member of a student has not answered."""
        done = self._answers.get((student, member.patched, items.content), {})
        return tuple(item for item in items.indices if item not in done)

    def answers(self, student: str, member: Member, items: TaskItems) -> list[Answer] | None:
        """A member's answers to all items of a task, or None where one is missing."""
        if self.missing(student, member, items):
            return None
        done = self._answers[student, member.patched, items.content]
        return [done[item] for item in items.indices]

    def add_answers(
        self,
        student: str,
        member: Member,
        items: TaskItems,
        answered: Sequence[int],
        answers: Sequence[Answer],
    ) -> None:
        """Note what a member answered to some items; `write` brings it to the disk."""
        new = dict(zip(answered, answers, strict=True))
        for kept in (self._answers, self._unwritten):
            kept.setdefault((student, member.patched, items.content), {}).update(new)

    def write(self, least_seconds: float = 0) -> None:
        """Write the answers that were added since the last time, unless that was just now."""
        now = time.monotonic()
        if now - self._written < least_seconds:
            return
        contents = {task for _, _, task in self._unwritten}
        self._record(name for name, content in self._names if content in contents)
        lines = [
            StoredAnswers(
                student=student,
                member=member,
                task=task,
                items=tuple(new),
                answers=tuple(new.values()),
            ).model_dump()
            for (student, member, task), new in self._unwritten.items()
        ]
        append_lines(self._scores_file, lines)
        self._unwritten.clear()
        self._written = now

    def read_answers(self) -> None:
        """Read what all processes have written."""
        for path in sorted(self.out.glob("scores*.jsonl")):
            for line in _read(path, StoredAnswers):
                if line.task in self._wanted:
                    done = self._answers.setdefault(line.key, {})
                    done.update(zip(line.items, line.answers, strict=True))

    def outcome(self, student: str, member: Member, items: TaskItems) -> Outcome | None:
        """What the harness made of a member's answers, if that was done."""
        return self._outcomes.get((student, member.patched, items.content))

    def add_outcome(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        append_lines(self.out / OUTCOMES_FILE, [outcome.model_dump()])
        self._outcomes[outcome.key] = outcome

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add rows to the results, except those that are current there.

        Rows of a student that another one has replaced since are written again, which makes them
        the current ones.
        """
        new = [row for row in rows if row not in self._rows]
        self._record(row.task for row in new)
        append_results(self.results, new)
        self._rows.update(new)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultsError(f"cannot be read as JSON ({error})", where=path) from None
    if not isinstance(settings, dict):
        raise ResultsError("is no JSON object", where=path)
    tasks = settings.get("tasks", {})
    if not isinstance(tasks, dict) or not all(isinstance(each, dict) for each in tasks.values()):
        raise ResultsError('field "tasks" is broken', where=path)
    return settings


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], out: Path) -> None:
    """Refuse other settings; those of tasks count where both sides have the task."""
    if there.get("schema_version") != here["schema_version"]:
        raise OutputError(
            f"was written by another version of boomerang (schema version "
            f"{there.get('schema_version')}, this one writes {here['schema_version']})",
            where=out,
            fix="name another directory, or go on with the version that wrote it",
        )
    details = _differences({**there, "tasks": 0}, {**here, "tasks": 0}, "")
    tasks = there.get("tasks", {})
    for name in here["tasks"]:
        if name in tasks and not details:
            details = _differences(tasks[name], here["tasks"][name], f" of {name}")
    if details:
        raise OutputError(
            f"holds another evaluation: {', '.join(details)}",
            where=out,
            fix="name another directory",
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], of: str) -> list[str]:
    return [
        f"{key}{of} is {there.get(key)} there and {here.get(key)} here"
        for key in {**there, **here}
        if there.get(key) != here.get(key)
    ]


_AnyLine = TypeVar("_AnyLine", bound=_Line)

# The field at fault where fields contradict each other.
_WHOLE: dict[type[_Line], str] = {StoredAnswers: "answers", Outcome: "by_document"}


def _read(path: Path, kind: type[_AnyLine]) -> list[_AnyLine]:
    lines = []
    for number, value in read_lines(path):
        try:
            lines.append(kind.model_validate(value))
        except ValidationError as error:
            name = ".".join(str(part) for part in error.errors()[0]["loc"]) or _WHOLE[kind]
            where = f"{path} line {number}"
            raise ResultsError(f'field "{name}" is missing or broken', where=where) from None
    return lines
