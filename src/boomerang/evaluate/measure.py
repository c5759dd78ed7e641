"""Measuring a family into an output directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..checkpoint.lock import locked
from ..errors import DataError
from ..family import Family
from ..layers import Member, Order
from ..progress import show_progress
from ..text.documents import read_documents
from ..text.windows import Text, default_stride, prepare
from .answering import Answering, Generate
from .beside import Beside
from .members import choose_members, size_in_memory
from .parallel import Ranks, all_ranks
from .perplexity import DEFAULT_WINDOW, fit_window
from .questions import Questions
from .results import BITS_PER_BYTE, FAMILY, Row
from .store import Store
from .subject import Subject
from .text import text_questions, text_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .tasks.options import TaskOptions

_SCHEMA_VERSION = 3


class Task(Protocol):
    """Something to measure on."""

    @property
    def questions(self) -> Questions:
        """What it asks."""

    @property
    def max_length(self) -> int:
        """The most tokens a model is fed."""

    @property
    def generate(self) -> Generate | None:
        """How members go on from prompts; None where there are none."""

    def rows(self, store: Store, subject: Subject, smaller: Member | None) -> list[Row]:
        """The rows of a member that has answered, compared with the member one size below."""


def measure(
    family: Family,
    out: str | Path,
    texts: Iterable[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_hash: str,
    student_hash: str,
    series: str = FAMILY,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    tasks: TaskOptions | None = None,
    beside: Beside | None = None,
) -> list[Row]:
    """Measure members of a family in memory; what `boomerang.evaluate` does after loading.

    Args:
        family: Teacher and student.
        out: The output directory.
        texts: UTF-8 text files.
        tokenizer: The teacher's tokenizer.
        teacher_hash: What stands for the teacher in the rows; equal for equal content only.
        student_hash: The same for the student.
        series: As in `boomerang.evaluate`, as are all that follow.
        members: Which members.
        order: The order of patching.
        window: The most positions a member sees at once.
        stride: Tokens scored per window.
        batch_size: Sequences per call of a model.
        tasks: Tasks of lm-evaluation-harness.
        beside: The family whose results these go to, where that is another one.

    Returns:
        The rows of the members asked for, finished before or now. Of several processes, the others
        than the first get none.

    Raises:
        LayerMapError, DataError, OutputError, ResultsError: As in `boomerang.evaluate`.
    """
    with all_ranks() as ranks, locked(Path(out), when=ranks.first):
        chosen = choose_members(family, members, order)
        everything: list[Task] = []
        paths = [Path(path) for path in texts]
        if paths:
            everything.append(_text_task(family, paths, tokenizer, window, stride, beside))
        harness = None
        if tasks is not None:
            # The harness is an extra, and takes seconds to import.
            from .tasks.harness import prepare_tasks

            harness = prepare_tasks(family, chosen, tokenizer, tasks, batch_size)
            everything += harness.tasks
        _check_names([task.questions.task for task in everything])
        store = ranks.in_turn(
            lambda: Store(
                out,
                _settings(family, teacher_hash, beside),
                [task.questions for task in everything],
                groups=harness.group_settings if harness else {},
                part=ranks.rank,
            )
        )
        run = _Run(family, chosen, store, ranks, teacher_hash, student_hash, series, order)
        rows = run.measure(everything, batch_size)
        if harness and ranks.first:
            rows += run.keep(
                [row for each in run.subjects for row in harness.group_rows(store, each)]
            )
        return rows


@dataclass(frozen=True)
class _Run:
    family: Family
    members: Sequence[Member]
    store: Store
    ranks: Ranks
    teacher: str
    student: str
    series: str
    order: Order | None

    @property
    def subjects(self) -> list[Subject]:
        return [
            Subject(
                member,
                *size_in_memory(self.family, member),
                teacher=self.teacher,
                student=self.student,
                series=self.series,
            )
            for member in self.members
        ]

    def measure(self, tasks: Sequence[Task], batch_size: int | None) -> list[Row]:
        """Have all members answer one task after the other; its rows are written at its end."""
        answering = Answering(
            self.family, self.store, student=self.student, batch_size=batch_size, ranks=self.ranks
        )
        missing = (answering.missing(self.members, task.questions) for task in tasks)
        total = sum(len(items) for each in missing for items in each.values())
        subjects = self.subjects
        smaller = _smaller_neighbours(self.family, self.order)
        rows: list[Row] = []
        with show_progress(f"Measuring {self.series}", total, shown=self.ranks.first) as advance:
            for task in tasks:
                answering.ask(
                    self.members,
                    task.questions,
                    max_length=task.max_length,
                    generate=task.generate,
                    advance=advance,
                )
                if self.ranks.first:
                    for each in subjects:
                        rows += self.keep(
                            task.rows(self.store, each, smaller.get(each.member.patched))
                        )
        return rows

    def keep(self, rows: list[Row]) -> list[Row]:
        self.store.add_rows(rows)
        return rows


@dataclass(frozen=True)
class _TextTask:
    questions: Questions
    text: Text
    in_own_tokens: bool = False
    generate: Generate | None = None

    @property
    def max_length(self) -> int:
        return max(len(window.inputs) for window in self.text.windows)

    def rows(self, store: Store, subject: Subject, smaller: Member | None) -> list[Row]:
        answers = store.answers(subject.student, subject.member, self.questions)
        assert answers is not None
        other = store.answers(subject.student, smaller, self.questions) if smaller else None
        rows = text_rows(subject, self.questions, self.text, answers, other)
        return [row for row in rows if not self.in_own_tokens or row.metric == BITS_PER_BYTE]


def _text_task(
    family: Family,
    paths: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    window: int | None,
    stride: int | None,
    beside: Beside | None,
) -> _TextTask:
    config = family.teacher.config if beside is None else beside.config
    window = fit_window(config, DEFAULT_WINDOW if window is None else window)
    stride = default_stride(window) if stride is None else stride
    documents = read_documents(paths)
    common = tokenizer if beside is None else beside.tokenizer
    text = prepare(documents, common, window=window, stride=stride)
    name = paths[0].stem if len(paths) == 1 else "text"
    questions = text_questions(name, text, window=window, stride=stride)
    fitting = fit_window(family.teacher.config, window)
    if tokenizer is common and fitting == window:
        return _TextTask(questions, text)
    own = prepare(documents, tokenizer, window=fitting, stride=min(stride, fitting))
    if own.hash == text.hash:
        return _TextTask(questions, text)
    # The same task, asked in other tokens.
    asked = text_questions(name, own, window=fitting, stride=stride)
    return _TextTask(replace(asked, settings=questions.settings), own, in_own_tokens=True)


def _check_names(names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError("a text and a task have this name", where=min(twice), fix="rename the text")


def _settings(family: Family, teacher_hash: str, beside: Beside | None) -> dict[str, object]:
    """What must be equal for rows to belong into one directory, whatever the task."""
    return {
        "schema_version": _SCHEMA_VERSION,
        "teacher": teacher_hash,
        "kept": list(family.layers.kept if beside is None else beside.kept),
        "dtype": str(family.teacher.dtype).removeprefix("torch."),
    }


def _smaller_neighbours(family: Family, order: Order | None) -> dict[tuple[int, ...], Member]:
    """For the patched layers of each member along the order, the member one size below.

    A difference is always to this neighbour, whichever members are asked for, so that rows of
    several runs can stand side by side.
    """
    members = family.layers.members(family.order if order is None else order)
    return {large.patched: small for small, large in pairwise(members)}
