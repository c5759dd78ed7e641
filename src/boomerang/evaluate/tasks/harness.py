"""Tasks of lm-evaluation-harness as tasks of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...family import Family
from ...layers import Member
from ..answering import Generate
from ..questions import Questions
from ..results import Row
from ..statistics import paired_difference
from ..store import Outcome, Store
from ..subject import Subject
from .generation import Generator
from .load import Loaded, load_tasks
from .options import TaskOptions
from .outcome import estimate, harness_values, judge, metric_values
from .quiet import quiet
from .record import Encoder, Recorded, record
from .samples import write_samples

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class HarnessTask:
    """One task.

    Attributes:
        recorded: The task and its requests.
        max_length: The most tokens a model is fed.
        generate: How members go on from its prompts; None where it has none.
        samples: Where to write what members answered, or None.
    """

    recorded: Recorded
    max_length: int
    generate: Generate | None
    samples: Path | None

    @property
    def questions(self) -> Questions:
        """What the task asks."""
        return self.recorded.questions

    def rows(self, store: Store, subject: Subject, smaller: Member | None) -> list[Row]:
        """The metrics of a member that has answered, and differences to the one a size below.

        Args:
            store: Where answers are; the outcome is kept there too.
            subject: The member.
            smaller: The member one size below, if there is one.
        """
        outcome = self._outcome(store, subject, self.samples)
        assert outcome is not None
        # The smaller member may come later in this run.
        compared = smaller and self._outcome(store, replace(subject, member=smaller), None)
        rows = []
        for key, (value, stderr) in outcome.values.items():
            metric = metric_name(key)
            rows.append(
                subject.row(self.questions.task, metric, value, stderr, items=outcome.documents)
            )
            mine = estimate(self.recorded, outcome, key)
            other = estimate(self.recorded, compared, key) if compared else None
            if mine is not None and other is not None:
                rows.append(
                    subject.row(
                        self.questions.task,
                        f"{metric}_difference",
                        *paired_difference(mine, other),
                        items=mine.items,
                    )
                )
        return rows

    def _outcome(self, store: Store, subject: Subject, samples: Path | None) -> Outcome | None:
        """What the harness makes of a member's answers; None where they are not complete."""
        known = store.outcome(subject.student, subject.member, self.questions)
        if known is not None and samples is None:
            return known
        answers = store.answers(subject.student, subject.member, self.questions)
        if answers is None:
            return known
        found, documents = judge(
            self.recorded,
            answers,
            student=subject.student,
            member=subject.member.patched,
            with_errors=known is None,
        )
        if samples is not None:
            write_samples(samples, subject.series, subject.member, self.questions.task, documents)
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

    def group_rows(self, store: Store, subject: Subject) -> list[Row]:
        """The metrics of groups, by the harness, and the averages of the paper's suite.

        Args:
            store: Where the outcomes of all tasks are.
            subject: The member.
        """
        outcomes = {
            task.questions.task: outcome
            for task in self.tasks
            if (outcome := store.outcome(subject.student, subject.member, task.questions))
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
                rows.append(subject.row(name, metric_name(key), value, stderr, items=counts[key]))
        for average in self.loaded.averages:
            mean = average.value(found)
            if mean is not None:
                value, stderr, items = mean
                rows.append(subject.row(average.task, average.metric, value, stderr, items=items))
        return rows


def prepare_tasks(
    family: Family,
    members: Sequence[Member],
    tokenizer: PreTrainedTokenizerBase,
    options: TaskOptions,
    batch_size: int | None,
) -> Harness:
    """Load tasks and have them make their requests, once for all members.

    Args:
        family: Teacher and student in memory.
        members: The members to measure.
        tokenizer: The teacher's tokenizer.
        options: Which tasks, and how.
        batch_size: Prompts of a call in generation; None for a reasonable number.

    Raises:
        DataError: A task is not known, cannot be loaded, or cannot be measured with these models.
    """
    if options.apply_chat_template and not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template", where="apply_chat_template", fix="leave it out"
        )
    loaded = load_tasks(options)
    largest = max(members, key=lambda member: member.num_layers)
    with quiet(logging.ERROR):
        encoder = Encoder(family.model(largest), tokenizer)
    tasks = []
    for name, task in loaded.tasks.items():
        recorded = record(name, task, encoder, options)
        generator = Generator(family, tokenizer, batch_size, recorded)
        tasks.append(
            HarnessTask(
                recorded,
                encoder.max_length,
                generator if recorded.questions.prompts else None,
                options.samples,
            )
        )
    return Harness(tasks, loaded)


def metric_name(key: str) -> str:
    """A metric as rows have it: without the filter where that is `none`."""
    return key.removesuffix(",none")
