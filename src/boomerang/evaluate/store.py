"""The output directory of an evaluation: its settings, answers by item, outcomes, and rows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from ..checkpoint.output import write_text
from ..errors import OutputError, ResultsError
from ..layers import Member
from .request_rows import Request
from .results import (
    RESULTS_FILE,
    Row,
    append_lines,
    append_results,
    current,
    read_json,
    read_models,
    read_results,
)

SETTINGS_FILE = "evaluation.json"
SCORES_FILE = "scores.jsonl"
OUTCOMES_FILE = "outcomes.jsonl"

Answer = tuple[float, bool] | str
"""To a token request: its log-likelihood in nats, and whether the continuation is the most probable
one. To a prompt: the generated text."""

_FIX = "name another directory"

# Patched layers, and the content hash of a task.
_Key = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class TaskItems:
    """One task's items, the same for all members: first token requests, then prompts."""

    task: str  # as in the rows
    content: str  # a hash of everything that an answer depends on, apart from the member
    settings: Mapping[str, Any]  # recorded with the task's name, to say what differs
    requests: Sequence[Request]  # contexts and continuations whose log-likelihood is wanted
    documents: Sequence[int]  # of each item; items of one document share their context
    max_length: int  # the most tokens a model is fed
    prompts: Sequence[Any] = field(default=(), repr=False)  # to generate from

    @property
    def indices(self) -> range:
        """The indices of all items."""
        return range(len(self.requests) + len(self.prompts))


class Outcome(BaseModel):
    """What lm-evaluation-harness made of a member's answers to a task."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    documents: int
    # For each metric and filter (as `acc,none`) the value and its standard error.
    values: dict[str, tuple[float, float | None]]
    # For each metric that can be paired with another member's, one entry a document: a number, or a
    # sum and its weight.
    by_document: dict[str, tuple[float | tuple[float, float], ...]]

    @field_validator("by_document")
    @classmethod
    def _every_document(cls, numbers: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if any(len(each) != info.data.get("documents") for each in numbers.values()):
            raise ValueError("not one entry for each document")
        return numbers


class _Line(BaseModel):
    student: str
    member: tuple[int, ...]
    task: str  # the content of its items


class _Answers(_Line):
    items: tuple[int, ...]
    answers: tuple[Answer, ...]

    @field_validator("answers")
    @classmethod
    def _one_each(cls, answers: tuple[Answer, ...], info: ValidationInfo) -> tuple[Answer, ...]:
        if len(answers) != len(info.data.get("items", ())):
            raise ValueError("not one answer for each item")
        return answers


class _Outcome(_Line, Outcome):
    pass


class Store:
    """An output directory for members of one student, continued or new.

    `settings` must be those that it has. Tasks may be added; the settings of one that is there must
    be the same. They are recorded with its first answers, so a run that measured nothing leaves no
    settings. Each process (`rank`) writes its own answers.

    Raises:
        OutputError: `out` holds an evaluation with other settings.
        ResultsError: A file in it is damaged.
    """

    def __init__(
        self,
        out: str | Path,
        settings: Mapping[str, Any],
        tasks: Sequence[TaskItems],
        *,
        student: str,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        rank: int = 0,
    ) -> None:
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self._student = student
        self._results = self.out / RESULTS_FILE
        self._scores = self.out / (f"scores.{rank}.jsonl" if rank else SCORES_FILE)
        named = {each.task: each.settings for each in tasks} | dict(groups or {})
        self._settings = {**settings, "tasks": {name: dict(each) for name, each in named.items()}}
        self._names = {each.content: each.task for each in tasks}
        self._read_settings()
        self._rows = set(current(read_results(self._results) if self._results.exists() else []))
        self._answers: dict[_Key, dict[int, Answer]] = {}
        self._unwritten: dict[_Key, dict[int, Answer]] = {}
        self._written = time.monotonic()
        self.read_answers()
        path = self.out / OUTCOMES_FILE
        lines = read_models(path, _Outcome) if path.exists() else []
        self._outcomes: dict[_Key, Outcome] = {
            (line.member, line.task): line for line in lines if line.student == student
        }

    def missing(self, member: Member, items: TaskItems) -> tuple[int, ...]:
        """The items of a task that a member has not answered."""
        done = self._answers.get((member.patched, items.content), {})
        return tuple(item for item in items.indices if item not in done)

    def answers(self, member: Member, items: TaskItems) -> list[Answer] | None:
        """A member's answers to all items of a task, or None where one is missing."""
        if self.missing(member, items):
            return None
        done = self._answers[member.patched, items.content]
        return [done[item] for item in items.indices]

    def add_answers(
        self, member: Member, items: TaskItems, answered: Sequence[int], answers: Sequence[Answer]
    ) -> None:
        """Note a member's answers to some items; `write` brings them to the disk."""
        new = dict(zip(answered, answers, strict=True))
        for kept in (self._answers, self._unwritten):
            kept.setdefault((member.patched, items.content), {}).update(new)

    def write(self, least_seconds: float = 0) -> None:
        """Write new answers, unless the last time was less than `least_seconds` ago."""
        now = time.monotonic()
        if now - self._written < least_seconds:
            return
        self._record(self._names[content] for _, content in self._unwritten)
        lines = (
            {**self._line(*key), "items": list(new), "answers": list(new.values())}
            for key, new in self._unwritten.items()
        )
        append_lines(self._scores, lines)
        self._unwritten.clear()
        self._written = now

    def read_answers(self) -> None:
        """Read what all processes have written."""
        for path in sorted(self.out.glob("scores*.jsonl")):
            for line in read_models(path, _Answers):
                if line.student == self._student and line.task in self._names:
                    done = self._answers.setdefault((line.member, line.task), {})
                    done.update(zip(line.items, line.answers, strict=True))

    def outcome(self, member: Member, items: TaskItems) -> Outcome | None:
        """What the harness made of a member's answers, if that was done."""
        return self._outcomes.get((member.patched, items.content))

    def add_outcome(self, member: Member, items: TaskItems, outcome: Outcome) -> None:
        """Keep an outcome, on the disk too."""
        key = member.patched, items.content
        line = {**self._line(*key), **outcome.model_dump()}
        append_lines(self.out / OUTCOMES_FILE, [line])
        self._outcomes[key] = outcome

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add rows that are not current in the results; rows of an earlier student become so."""
        new = [row for row in rows if row not in self._rows]
        self._record(row.task for row in new)
        append_results(self._results, new)
        self._rows.update(new)

    def _line(self, member: tuple[int, ...], content: str) -> dict[str, Any]:
        return {"student": self._student, "member": member, "task": content}

    def _record(self, names: Iterable[str]) -> None:
        """Record the settings of tasks, before anything that was measured on them."""
        tasks = self._settings["tasks"]
        # Read again: other processes of this evaluation record their tasks too.
        there = self._read_settings()
        known = there.get("tasks", {})
        new = {name: tasks[name] for name in names if name in tasks and name not in known}
        if new:
            settings = {**self._settings, "tasks": {**known, **new}}
            write_text(self.out / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")

    def _read_settings(self) -> dict[str, Any]:
        """The recorded settings; refuses others than those of this run."""
        path = self.out / SETTINGS_FILE
        if not path.exists():
            if self._results.exists():
                what = f"has results but no {SETTINGS_FILE}"
                raise OutputError(what, where=self.out, fix=_FIX)
            return {}
        there = read_json(path)
        tasks = there.get("tasks", {})
        if not isinstance(tasks, dict) or not all(isinstance(e, dict) for e in tasks.values()):
            raise ResultsError('field "tasks" is broken', where=path)
        _check_same({**there, "tasks": tasks}, self._settings, self.out)
        return there


def _check_same(there: Mapping[str, Any], here: Mapping[str, Any], out: Path) -> None:
    """Refuse other settings; those of a task count where both sides have the task."""
    key = "schema_version"
    if there.get(key) != here[key]:
        raise OutputError(
            f"was written by another version of boomerang (schema version {there.get(key)}, this "
            f"one writes {here[key]})",
            where=out,
            fix=f"{_FIX}, or go on with the version that wrote it",
        )
    pairs = [("", {**there, "tasks": 0}, {**here, "tasks": 0})]
    for task in [name for name in here["tasks"] if name in there["tasks"]]:
        pairs.append((f" of {task}", there["tasks"][task], here["tasks"][task]))
    details = [
        f"{key}{of} is {a.get(key)} there and {b.get(key)} here"
        for of, a, b in pairs
        for key in {**a, **b}
        if a.get(key) != b.get(key)
    ]
    if details:
        what = f"holds another evaluation: {', '.join(details)}"
        raise OutputError(what, where=out, fix=_FIX)
