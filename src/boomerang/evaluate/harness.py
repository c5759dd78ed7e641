"""Tasks of lm-evaluation-harness as tasks of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from ..checkpoint.loading import check_tokens
from ..errors import DataError
from ..family import Family
from ..layers import Member
from .options import Measure
from .outcome import estimate, harness_values, judge, metric_values, write_samples
from .requests import Encoder, Recorded, harness_arguments, record
from .results import Value
from .scorer import check_finite
from .statistics import paired_difference
from .store import Outcome, Store, TaskItems
from .tasks import AVERAGES, PAPER, average, load_tasks, quiet, seed_everything, task_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prompts in a batch by default; fewer where memory does not suffice.
_BATCH_SIZE = 16

# How many tokens of the first prompt a member reads before it generates.
_TOKENS_READ = 32


@dataclass(frozen=True)
class HarnessTask:
    """One task, as `Recorded` once for all members."""

    recorded: Recorded
    family: Family
    tokenizer: PreTrainedTokenizerBase
    batch_size: int | None  # prompts in a batch
    samples: Path | None  # the directory for samples, if they are wanted

    @property
    def items(self) -> TaskItems:
        """What the task asks."""
        return self.recorded.items

    def generate(
        self, member: Member, items: Sequence[int], advance: Callable[[int], None]
    ) -> list[str]:
        """The texts with which a member continues the prompts of some items, by the harness."""
        prompts = [self.items.prompts[item - len(self.items.requests)] for item in items]
        size = self.batch_size or _BATCH_SIZE
        with quiet(), task_errors(self.items.task, "cannot generate"):
            model = self.family.model(member)
            harness = HFLM(**harness_arguments(model, self.tokenizer, batch_size=size))
            texts = (harness.tok_encode(prompt.args[0]) for prompt in prompts)
            check_tokens(model, max((max(tokens, default=0) for tokens in texts), default=0))
            _check_logits(member, harness, prompts[0].args[0])
            while True:
                done = _Count(advance)
                harness.set_cache_hook(done)
                seed_everything([self.recorded.task])
                try:
                    return harness.generate_until(prompts, disable_tqdm=True)
                except torch.OutOfMemoryError:
                    if harness.batch_size_per_gpu == 1:
                        raise
                    harness.batch_size_per_gpu //= 2
                    advance(-done.texts)

    def values(self, store: Store, member: Member, smaller: Member | None) -> list[Value]:
        """The metrics of a member, and differences to the member one size below."""
        outcome = self._outcome(store, member, self.samples)
        assert outcome is not None
        # The smaller member may come later in this run.
        other = smaller and self._outcome(store, smaller, None)
        found = []
        for key, (value, stderr) in outcome.values.items():
            metric = key.removesuffix(",none")
            found.append(Value(self.items.task, metric, value, stderr, outcome.documents))
            a = estimate(self.recorded, outcome, key)
            b = estimate(self.recorded, other, key) if other else None
            if a and b:
                difference = paired_difference(a, b)
                found.append(Value(self.items.task, f"{metric}_difference", *difference, a.items))
        return found

    def _outcome(self, store: Store, member: Member, samples: Path | None) -> Outcome | None:
        """What the harness makes of a member's answers; None if some are missing."""
        known = store.outcome(member, self.items)
        answers = store.answers(member, self.items)
        if answers is None or (known and samples is None):
            return known
        found, documents = judge(self.recorded, answers, member, with_errors=known is None)
        if samples is not None:
            write_samples(samples, member, self.items.task, documents)
        if known is None:
            store.add_outcome(member, self.items, found)
        return known or found


class Harness:
    """The tasks of an evaluation, loaded, with requests made once for all members.

    Raises:
        DataError: A task is unknown, cannot be loaded, or cannot be measured with these models.
    """

    def __init__(
        self, family: Family, tokenizer: PreTrainedTokenizerBase, what: Measure, samples: Path
    ) -> None:
        if what.apply_chat_template and not tokenizer.chat_template:
            where = "apply_chat_template"
            raise DataError("the tokenizer has no chat template", where=where, fix="leave it out")
        loaded, self.groups = load_tasks(what)
        with quiet():
            encoder = Encoder(family.model(family.layers.max_patch), tokenizer)
        directory = samples if what.log_samples else None
        rest = (family, tokenizer, what.batch_size, directory)
        self.tasks = [
            HarnessTask(record(name, task, encoder, what), *rest) for name, task in loaded.items()
        ]
        self._averages = AVERAGES if PAPER in what.task_names else {}

    @property
    def group_settings(self) -> dict[str, Mapping[str, Any]]:
        """The tasks of each group, for the record."""
        return {
            name: {"tasks": sorted(task.task_name for task in group.get_all_tasks())}
            for name, group in self.groups.items()
        }

    def group_values(self, store: Store, member: Member) -> list[Value]:
        """The metrics of groups, by the harness, and the averages of the paper's suite."""
        outcomes = {
            task.items.task: outcome
            for task in self.tasks
            if (outcome := store.outcome(member, task.items))
        }
        known = {
            (name, key): (*value, outcome.documents)
            for name, outcome in outcomes.items()
            for key, value in outcome.values.items()
        }
        found = []
        of_tasks = {name: harness_values(outcome) for name, outcome in outcomes.items()}
        for name, group in self.groups.items():
            with quiet():
                together = group.aggregate(of_tasks)
            counts = together.get("sample_count", {})
            for key, value in metric_values(together).items():
                known[name, key] = (*value, counts[key])
                found.append(Value(name, key.removesuffix(",none"), *known[name, key]))
        for (name, metric), parts in self._averages.items():
            mean = average(parts, known)
            if mean is not None:
                found.append(Value(name, metric, *mean))
        return found


class _Count:
    """Counts texts; the harness calls it as a cache of answers, batch by batch."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.texts = 0
        self._advance = advance

    def add_partial(self, kind: str, request: Any, text: str) -> None:
        self.texts += 1
        self._advance(1)


def _check_logits(member: Member, harness: HFLM, prompt: str) -> None:
    """One short forward: generation itself would take a token from any logits."""
    tokens = harness.tok_encode(prompt)[:_TOKENS_READ] or [harness.prefix_token_id]
    with torch.no_grad():
        logits = harness.model(torch.tensor([tokens], device=harness.device)).logits
    # -inf rules a token out; NaN and +inf are defects.
    check_finite([member], np.asarray(logits.float().logsumexp(-1).cpu()))
