"""Texts that members generate, by the harness's own generation."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from ...family import Family
from ...layers import Member
from ..members import check_finite
from .load import seed_everything, telling
from .quiet import quiet
from .record import Recorded, harness_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prompts of a call where no batch size is given; fewer where memory does not suffice.
_BATCH_SIZE = 16

# Of the first prompt, which a member reads once to show that its weights are sound.
_TOKENS_READ = 32


class Generator:
    """Goes on from the prompts of one task, with any member.

    Args:
        family: Teacher and student in memory.
        tokenizer: The teacher's tokenizer.
        batch_size: Prompts of a call; None for a reasonable number.
        recorded: The task.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None,
        recorded: Recorded,
    ) -> None:
        self._family = family
        self._tokenizer = tokenizer
        self._batch_size = _BATCH_SIZE if batch_size is None else batch_size
        self._recorded = recorded

    def __call__(
        self, member: Member, items: Sequence[int], keep: Callable[[int, str], None]
    ) -> None:
        """Generate, and tell each item's text as soon as its batch is done.

        Args:
            member: Which member.
            items: Items of the task's questions, all prompts.
            keep: Told item and text.

        Raises:
            ResultsError: The member's logits are not finite: any text of its would be noise.
        """
        questions = self._recorded.questions
        prompts = {item: questions.prompts[item - len(questions.requests)] for item in items}
        with quiet(logging.ERROR), telling(questions.task, "cannot generate"):
            model = self._family.model(member)
            arguments = harness_arguments(model, self._tokenizer, batch_size=self._batch_size)
            harness = HFLM(**arguments)
            hook = _Hook(keep, {item: prompt.args for item, prompt in prompts.items()})
            harness.set_cache_hook(hook)
            _check_sound(member, harness, prompts[items[0]].args[0])
            seed_everything([self._recorded.task])
            while hook.left:
                try:
                    harness.generate_until([prompts[item] for item in hook.left], disable_tqdm=True)
                except torch.OutOfMemoryError:
                    if harness.batch_size_per_gpu == 1:
                        raise
                    harness.batch_size_per_gpu //= 2


def _check_sound(member: Member, harness: HFLM, prompt: str) -> None:
    """One short forward: generation itself takes a token from whatever logits there are."""
    tokens = harness.tok_encode(prompt)[:_TOKENS_READ] or [harness.prefix_token_id]
    with torch.no_grad():
        logits = harness.model(torch.tensor([tokens], device=harness.device)).logits
    # Finite where a token may be ruled out (-inf), but none is NaN or +inf.
    check_finite([member], np.asarray(logits.float().logsumexp(-1).cpu()))


class _Hook:
    """Is told each text by the harness, which knows prompts by what they say."""

    def __init__(
        self, keep: Callable[[int, str], None], prompts: dict[int, tuple[Any, ...]]
    ) -> None:
        self._keep = keep
        self._items: dict[str, list[int]] = {}
        for item, (context, kwargs) in prompts.items():
            self._items.setdefault(_key(context, kwargs), []).append(item)

    @property
    def left(self) -> list[int]:
        """The items without a text."""
        return sorted(item for items in self._items.values() for item in items)

    def add_partial(self, kind: str, request: tuple[str, Any], text: str) -> None:
        # Of requests that say the same, any text is as good as another.
        self._keep(self._items[_key(*request)].pop(0), text)


def _key(context: str, kwargs: Any) -> str:
    return json.dumps([context, kwargs], sort_keys=True, default=str)
