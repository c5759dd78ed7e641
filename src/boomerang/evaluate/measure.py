"""Measuring a family into an output directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..family import Family
from ..layers import Member, Order
from ..progress import show_progress
from .options import Measure
from .parallel import Ranks, all_ranks
from .perplexity import Reference, TextTask, text_task
from .results import FAMILY, Row, Value
from .scorer import Scorer, check_finite
from .store import Store, TaskItems

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .harness import HarnessTask

_SCHEMA_VERSION = 3

# The most work that a killed run loses, apart from generation.
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

    Arguments, result and errors are those of `boomerang.evaluate`; the hashes are of contents, and
    `reference` is the family whose results `out` holds, if that is another one. The family and its
    training mode stay as they are. The caller holds the lock of `out` (`checkpoint.lock.locked`).
    """
    along = family.layers.members(family.order if order is None else order)
    chosen = along
    if members is not None:
        chosen = tuple(dict.fromkeys(family.member(member, order) for member in members))
    tasks: list[TextTask | HarnessTask] = []
    if what.texts:
        tasks.append(text_task(family.teacher.config, what, tokenizer, reference))
    harness = None
    if what.tasks is not None:
        # The harness is an extra, and takes seconds to import.
        from .harness import Harness

        samples = Path(out) / "samples" / series
        harness = Harness(family, tokenizer, what, samples)
        tasks += harness.tasks
    items = [task.items for task in tasks]
    if len(items) > len({each.task for each in items}):
        raise DataError(
            "a text and a task have this name", where=items[0].task, fix="rename the text"
        )
    settings = {
        "schema_version": _SCHEMA_VERSION,
        "teacher": teacher_hash,
        "kept": list((reference or family.layers).kept),
        "dtype": str(family.teacher.dtype).removeprefix("torch."),
    }
    groups = harness.group_settings if harness else {}
    who = {"teacher": teacher_hash, "student": student_hash, "series": series}
    fields = {member: _fields(family, member) | who for member in chosen}
    # A difference is always to the next smaller member of the order, whichever members are asked
    # for, so that rows of several runs can stand side by side.
    smaller = {large.patched: small for small, large in pairwise(along)}
    rows: list[Row] = []

    def add(member: Member, values: Iterable[Value]) -> None:
        new = [Row(**fields[member], **value._asdict()) for value in values]
        store.add_rows(new)
        rows.extend(new)

    with all_ranks() as ranks:
        store = Store(out, settings, items, student=student_hash, groups=groups, rank=ranks.rank)
        run = _Run(family, store, ranks, what.batch_size, chosen)
        total = sum(len(asked) for each in items for asked in run.missing(each).values())
        with show_progress(f"Measuring {series}", total, shown=ranks.first) as advance:
            for task in tasks:
                run.answer(task, advance)
                for member in chosen if ranks.first else ():
                    add(member, task.values(store, member, smaller.get(member.patched)))
        if harness and ranks.first:
            for member in chosen:
                add(member, harness.group_values(store, member))
    return rows


@dataclass
class _Run:
    """Asks members what they have not answered yet."""

    family: Family
    store: Store
    ranks: Ranks
    batch_size: int | None
    members: Sequence[Member]
    # By members and longest input; what a scorer found out about its models holds for later tasks.
    scorers: dict[tuple[tuple[Member, ...], int], Scorer] = field(default_factory=dict)

    def missing(self, items: TaskItems) -> dict[Member, tuple[int, ...]]:
        """The items that this process has to ask of each member."""
        return {
            member: self.ranks.share(self.store.missing(member, items), items.documents)
            for member in self.members
        }

    def answer(self, task: TextTask | HarnessTask, advance: Callable[[int], None]) -> None:
        """Ask what is missing; afterwards all processes are done, and the first knows all."""
        missing = self.missing(task.items)
        number = len(task.items.requests)
        scored = {m: tuple(i for i in items if i < number) for m, items in missing.items()}
        try:
            for items in sorted({*scored.values()} - {()}, key=len):
                together = tuple(member for member in self.members if scored[member] == items)
                self._score(together, task.items, items, advance)
            for member in self.members:
                prompts = [item for item in missing[member] if item >= number]
                if prompts and not isinstance(task, TextTask):
                    texts = task.generate(member, prompts, advance)
                    self.store.add_answers(member, task.items, prompts, texts)
                    self.store.write()
        finally:
            self.store.write()
        self.ranks.wait()
        if self.ranks.first and self.ranks.world > 1:
            self.store.read_answers()

    def _score(
        self,
        members: tuple[Member, ...],
        items: TaskItems,
        asked: Sequence[int],
        advance: Callable[[int], None],
    ) -> None:
        """Score token requests under several members in one pass."""
        length = items.max_length
        if (members, length) not in self.scorers:
            self.scorers[members, length] = Scorer(
                self.family, members, max_length=length, batch_size=self.batch_size
            )
        for scored in self.scorers[members, length].run([items.requests[each] for each in asked]):
            check_finite(members, scored.log_likelihood)
            answered = [asked[index] for index in scored.requests]
            sums, greedy = scored.log_likelihood.tolist(), scored.greedy.tolist()
            for member, *answers in zip(members, sums, greedy, strict=True):
                pairs = list(zip(*answers, strict=True))
                self.store.add_answers(member, items, answered, pairs)
            self.store.write(least_seconds=_SECONDS_BETWEEN_WRITES)
            advance(scored.log_likelihood.size)


def _fields(family: Family, member: Member) -> dict[str, Any]:
    """The fields of `Row` that describe a member; a tied head is counted once."""
    parameters = list(family.model(member).parameters())
    return {
        "member": member.patched,
        "patch": member.patch,
        "order": member.order,
        "num_layers": member.num_layers,
        "parameters": sum(each.numel() for each in parameters),
        "bytes": sum(each.numel() * each.element_size() for each in parameters),
    }
