"""Tasks of lm-evaluation-harness as tasks of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...family import Family
from ...layers import Member
from ..options import Measure
from ..results import Row
from ..statistics import paired_difference
from ..store import Outcome, Store
from ..task import MeasuredMember, TaskItems
from .generation import generate
from .load import Loaded, load_tasks
from .outcome import estimate, harness_values, judge, metric_values, write_samples
from .quiet import quiet
from .requests import Encoder, Recorded, record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HarnessTask:
    """One task.

    Attributes:
        recorded: The task and its requests.
        max_length: The most tokens a model is fed.
        family: Teacher and student in memory.
        tokenizer: The teacher's.
        batch_size: Prompts of a call in generation; None for a reasonable number.
        samples: Where to write what members answered, or None.
    """

    recorded: Recorded
    max_length: int
    family: Family
    tokenizer: PreTrainedTokenizerBase
    batch_size: int | None
    samples: Path | None

    @property
    def items(self) -> TaskItems:
        """What the task asks."""
        return self.recorded.items

    def generate(
        self, member: Member, items: Sequence[int], advance: Callable[[int], None]
    ) -> list[str]:
        """The texts with which a member continues the prompts of some items."""
        prompts = [self.items.prompts[item - len(self.items.requests)] for item in items]
        return generate(
            self.family, member, self.tokenizer, self.recorded, prompts, self.batch_size, advance
        )

    def rows(self, store: Store, member: MeasuredMember, smaller: Member | None) -> list[Row]:
        """The metrics of a member that has answered, and differences to the one a size below.

        Outcomes are kept in the store.
        """
        outcome = self._outcome(store, member, self.samples)
        assert outcome is not None
        # The smaller member may come later in this run.
        other = smaller and self._outcome(store, replace(member, member=smaller), None)
        rows = []
        for key, (value, stderr) in outcome.values.items():
            metric = key.removesuffix(",none")
            rows.append(member.row(self.items.task, metric, value, stderr, items=outcome.documents))
            pair = [
                found
                for each in (outcome, other)
                if each and (found := estimate(self.recorded, each, key))
            ]
            if len(pair) == 2:
                difference = paired_difference(*pair)
                metric = f"{metric}_difference"
                rows.append(member.row(self.items.task, metric, *difference, items=pair[0].items))
        return rows

    def _outcome(
        self, store: Store, measured: MeasuredMember, samples: Path | None
    ) -> Outcome | None:
        """What the harness makes of a member's answers; None where they are not complete."""
        student, member = measured.student, measured.member
        known = store.outcome(student, member, self.items)
        if known is not None and samples is None:
            return known
        answers = store.answers(student, member, self.items)
        if answers is None:
            return known
        found, documents = judge(
            self.recorded,
            answers,
            student=student,
            member=member.patched,
            with_errors=known is None,
        )
        if samples is not None:
            write_samples(samples, measured.series, member, self.items.task, documents)
        if known is None:
            store.add_outcome(found)
        return known or found


@dataclass(frozen=True)
class Harness:
    """The tasks of an evaluation, and what is put together from them.

    Attributes:
        tasks: The tasks.
        loaded: The same as the harness has them, with groups and averages.
    """

    tasks: Sequence[HarnessTask]
    loaded: Loaded

    @property
    def group_settings(self) -> dict[str, Mapping[str, Any]]:
        """What a group's rows are made of, for the record."""
        return {
            name: {"tasks": sorted(task.task_name for task in group.get_all_tasks())}
            for name, group in self.loaded.groups.items()
        }

    def group_rows(self, store: Store, member: MeasuredMember) -> list[Row]:
        """The metrics of groups, by the harness, and the averages of the paper's suite."""
        outcomes = {
            task.items.task: outcome
            for task in self.tasks
            if (outcome := store.outcome(member.student, member.member, task.items))
        }
        found = {
            (name, key): (*value, outcome.documents)
            for name, outcome in outcomes.items()
            for key, value in outcome.values.items()
        }
        rows = []
        of_tasks = {name: harness_values(outcome) for name, outcome in outcomes.items()}
        for name, group in self.loaded.groups.items():
            # It warns of tasks that lack a metric, of every member anew.
            with quiet(logging.ERROR):
                together = group.aggregate(of_tasks)
            counts = together.get("sample_count", {})
            for key, (value, stderr) in metric_values(together).items():
                found[name, key] = value, stderr, counts[key]
                metric = key.removesuffix(",none")
                rows.append(member.row(name, metric, value, stderr, items=counts[key]))
        for average in self.loaded.averages:
            mean = average.value(found)
            if mean is not None:
                value, stderr, items = mean
                rows.append(member.row(average.task, average.metric, value, stderr, items=items))
        return rows


def prepare_tasks(
    family: Family,
    members: Sequence[Member],
    tokenizer: PreTrainedTokenizerBase,
    what: Measure,
    samples: Path,
) -> Harness:
    """Load tasks and have them make their requests, once for all members.

    Args:
        family: Teacher and student in memory.
        members: The members to measure.
        tokenizer: The teacher's tokenizer.
        what: Which tasks, and how.
        samples: Where samples go, if they are wanted.

    Raises:
        DataError: A task is not known, cannot be loaded, or cannot be measured with these models.
    """
    if what.apply_chat_template and not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template", where="apply_chat_template", fix="leave it out"
        )
    loaded = load_tasks(what)
    largest = max(members, key=lambda member: member.num_layers)
    with quiet(logging.ERROR):
        encoder = Encoder(family.model(largest), tokenizer)
    tasks = [
        HarnessTask(
            record(name, task, encoder, what),
            encoder.max_length,
            family,
            tokenizer,
            what.batch_size,
            samples if what.log_samples else None,
        )
        for name, task in loaded.tasks.items()
    ]
    return Harness(tasks, loaded)
