"""Having all members of a family answer the questions of a task, and keeping the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..family import Family
from ..layers import Member
from .members import check_finite
from .parallel import Ranks
from .questions import Questions
from .scorer import Scorer
from .store import Store

Generate = Callable[[Member, Sequence[int], Callable[[int, str], None]], None]
"""Go on from some prompts of a task with a member, and tell each item's text once it is there."""

# The most work that a killed run loses.
_SECONDS_BETWEEN_WRITES = 20


class Answering:
    """Asks members what they have not answered yet.

    Args:
        family: Teacher and student in memory.
        store: Where answers are kept.
        student: The content hash of the student.
        batch_size: Sequences in a call of a model; by default a reasonable number of tokens.
        ranks: The processes that share the work.
    """

    def __init__(
        self, family: Family, store: Store, *, student: str, batch_size: int | None, ranks: Ranks
    ) -> None:
        self._family = family
        self._store = store
        self._student = student
        self._batch_size = batch_size
        self._ranks = ranks
        self._scorers: dict[tuple[tuple[Member, ...], int], Scorer] = {}

    def missing(
        self, members: Sequence[Member], questions: Questions
    ) -> dict[Member, Sequence[int]]:
        """The items that this process has to ask of each member."""
        return {
            member: self._ranks.share(
                self._store.missing(self._student, member, questions), questions.documents
            )
            for member in members
        }

    def ask(
        self,
        members: Sequence[Member],
        questions: Questions,
        *,
        max_length: int,
        generate: Generate | None,
        advance: Callable[[int], None],
    ) -> None:
        """Have members answer what is missing; what is done is kept, come what may.

        On return all processes are done, and the first one knows every answer.

        Args:
            members: Which members.
            questions: The task.
            max_length: The most tokens a model is fed.
            generate: How to go on from prompts, for a task that has some.
            advance: Told the number of answers that came in.

        Raises:
            ResultsError: A log-likelihood, or a logit of a member that generates, is not finite.
        """
        missing = self.missing(members, questions)
        scored = {
            member: tuple(item for item in items if item < len(questions.requests))
            for member, items in missing.items()
        }
        try:
            for items in sorted({*scored.values()} - {()}, key=len):
                together = tuple(member for member in members if scored[member] == items)
                self._score(together, questions, items, max_length, advance)
            for member in members:
                prompts = [item for item in missing[member] if item >= len(questions.requests)]
                if prompts and generate is not None:
                    self._generate(member, questions, prompts, generate, advance)
        finally:
            self._store.write()
        self._ranks.wait()
        if self._ranks.first and self._ranks.world > 1:
            self._store.read_answers()

    def _score(
        self,
        members: tuple[Member, ...],
        questions: Questions,
        items: Sequence[int],
        max_length: int,
        advance: Callable[[int], None],
    ) -> None:
        """Score token requests under several members in one pass."""
        requests = [questions.requests[item] for item in items]
        for scored in self._scorer(members, max_length).run(requests):
            check_finite(members, scored.log_likelihood)
            finished = [items[index] for index in scored.requests]
            for member, sums, hits in zip(
                members, scored.log_likelihood, scored.greedy, strict=True
            ):
                answers = list(zip(sums.tolist(), hits.tolist(), strict=True))
                self._store.add_answers(self._student, member, questions, finished, answers)
            self._store.write(least_seconds=_SECONDS_BETWEEN_WRITES)
            advance(scored.log_likelihood.size)

    def _generate(
        self,
        member: Member,
        questions: Questions,
        items: Sequence[int],
        generate: Generate,
        advance: Callable[[int], None],
    ) -> None:
        def keep(item: int, text: str) -> None:
            self._store.add_answers(self._student, member, questions, [item], [text])
            self._store.write(least_seconds=_SECONDS_BETWEEN_WRITES)
            advance(1)

        generate(member, items, keep)

    def _scorer(self, members: tuple[Member, ...], max_length: int) -> Scorer:
        """One scorer for the same members: what it found out holds for their next task too."""
        key = members, max_length
        if key not in self._scorers:
            self._scorers[key] = Scorer.of(
                self._family, members, max_length=max_length, batch_size=self._batch_size
            )
        return self._scorers[key]
