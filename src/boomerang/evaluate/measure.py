"""Measuring a family into an output directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.lock import locked
from ..errors import DataError
from ..family import Family
from ..layers import Member, Order
from ..progress import show_progress
from .options import Measure
from .parallel import Ranks, all_ranks
from .perplexity import text_task
from .results import FAMILY, Row
from .scorer import Scorer, check_finite
from .store import Store
from .task import MeasuredMember, Reference, Task, TaskItems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCHEMA_VERSION = 3

# The most work that a killed run loses, generation aside.
_SECONDS_BETWEEN_WRITES = 20


def measure(
    family: Family,
    out: str | Path,
    what: Measure,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_hash: str,
    student_hash: str,
    series: str = FAMILY,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    reference: Reference | None = None,
) -> list[Row]:
    """Measure members of a family in memory; what `boomerang.evaluate` does after loading.

    Args:
        family: Teacher and student; neither is changed, nor is its training mode.
        out: The output directory.
        what: What to measure on.
        tokenizer: The teacher's tokenizer.
        teacher_hash: What stands for the teacher in the rows; equal for equal content only.
        student_hash: The same for the student.
        series: As in `boomerang.evaluate`.
        members: As in `boomerang.evaluate`.
        order: As in `boomerang.evaluate`.
        reference: The family whose results these go to, where that is another one.

    Returns:
        The rows of the members asked for, finished before or now. With several processes, only
        the first gets them.

    Raises:
        LayerMapError, DataError, OutputError, ResultsError: As in `boomerang.evaluate`.
    """
    with all_ranks() as ranks, locked(Path(out), when=ranks.first):
        chosen = _choose(family, members, order)
        tasks: list[Task] = []
        if what.texts:
            tasks.append(text_task(family.teacher.config, what, tokenizer, reference))
        harness = None
        if what.tasks is not None:
            # The harness is an extra, and takes seconds to import.
            from .tasks.harness import prepare_tasks

            harness = prepare_tasks(family, chosen, tokenizer, what, Path(out) / "samples")
            tasks += harness.tasks
        names = [task.items.task for task in tasks]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError("a text and a task have this name", where=twice, fix="rename the text")
        settings = {
            "schema_version": _SCHEMA_VERSION,
            "teacher": teacher_hash,
            "kept": list((reference or family.layers).kept),
            "dtype": str(family.teacher.dtype).removeprefix("torch."),
        }
        store = ranks.in_turn(
            lambda: Store(
                out,
                settings,
                [task.items for task in tasks],
                groups=harness.group_settings if harness else {},
                part=ranks.rank,
            )
        )
        measured = [
            MeasuredMember(each, *_size(family, each), teacher_hash, student_hash, series)
            for each in chosen
        ]
        run = _Run(family, store, ranks, student_hash, what.batch_size, chosen)
        # A difference is always to the next smaller member of the order, whichever members are
        # asked for, so that rows of several runs can stand side by side.
        along = family.layers.members(family.order if order is None else order)
        smaller = {large.patched: small for small, large in pairwise(along)}
        rows: list[Row] = []
        total = sum(len(items) for task in tasks for items in run.missing(task.items).values())
        with show_progress(f"Measuring {series}", total, shown=ranks.first) as advance:
            for task in tasks:
                run.answer(task, advance)
                if ranks.first:
                    for each in measured:
                        new = task.rows(store, each, smaller.get(each.member.patched))
                        store.add_rows(new)
                        rows += new
        if harness and ranks.first:
            new = [row for each in measured for row in harness.group_rows(store, each)]
            store.add_rows(new)
            rows += new
        return rows


@dataclass
class _Run:
    """Asks members what they have not answered yet."""

    family: Family
    store: Store
    ranks: Ranks
    student: str
    batch_size: int | None
    members: Sequence[Member]
    # What a scorer found out about its models holds for their next task too.
    scorers: dict[tuple[tuple[Member, ...], int], Scorer] = field(default_factory=dict)

    def missing(self, items: TaskItems) -> dict[Member, tuple[int, ...]]:
        """The items that this process has to ask of each member."""
        return {
            member: self.ranks.share(
                self.store.missing(self.student, member, items), items.documents
            )
            for member in self.members
        }

    def answer(self, task: Task, advance: Callable[[int], None]) -> None:
        """Have members answer what is missing.

        On return all processes are done, and the first one knows every answer.
        """
        missing = self.missing(task.items)
        number = len(task.items.requests)
        scored = {m: tuple(i for i in items if i < number) for m, items in missing.items()}
        try:
            for items in sorted({*scored.values()} - {()}, key=len):
                together = tuple(member for member in self.members if scored[member] == items)
                self._score(together, task, items, advance)
            for member in self.members:
                prompts = [item for item in missing[member] if item >= number]
                if prompts:
                    texts = task.generate(member, prompts, advance)
                    self.store.add_answers(self.student, member, task.items, prompts, texts)
                    self.store.write()
        finally:
            self.store.write()
        self.ranks.wait()
        if self.ranks.first and self.ranks.world > 1:
            self.store.read_answers()

    def _score(
        self,
        members: tuple[Member, ...],
        task: Task,
        items: Sequence[int],
        advance: Callable[[int], None],
    ) -> None:
        """Score token requests under several members in one pass."""
        key = members, task.max_length
        if key not in self.scorers:
            self.scorers[key] = Scorer.of(
                self.family, members, max_length=task.max_length, batch_size=self.batch_size
            )
        for scored in self.scorers[key].run([task.items.requests[item] for item in items]):
            check_finite(members, scored.log_likelihood)
            finished = [items[index] for index in scored.requests]
            sums, greedy = scored.log_likelihood.tolist(), scored.greedy.tolist()
            for member, *answers in zip(members, sums, greedy, strict=True):
                pairs = list(zip(*answers, strict=True))
                self.store.add_answers(self.student, member, task.items, finished, pairs)
            self.store.write(least_seconds=_SECONDS_BETWEEN_WRITES)
            advance(scored.log_likelihood.size)


def _choose(
    family: Family, members: Iterable[int | Member] | None, order: Order | None
) -> tuple[Member, ...]:
    """The members meant by values of patch, by members, or by None for all; each once."""
    if members is None:
        return family.layers.members(family.order if order is None else order)
    return tuple(dict.fromkeys(family.member(member, order) for member in members))


def _size(family: Family, member: Member) -> tuple[int, int]:
    """A member's parameters and their bytes, a tied head counted once."""
    parameters = list(family.model(member).parameters())
    count = sum(parameter.numel() for parameter in parameters)
    return count, sum(parameter.numel() * parameter.element_size() for parameter in parameters)
