"""Texts that members generate, by the harness's own generation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM

from ...family import Family
from ...layers import Member
from ..scorer import check_finite
from .load import seed_everything, task_errors
from .quiet import quiet
from .requests import Recorded, harness_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prompts of a call where no batch size is given; fewer where memory does not suffice.
_BATCH_SIZE = 16

# How much of the first prompt a member reads once, to show that its weights are sound.
_TOKENS_READ = 32


def generate(
    family: Family,
    member: Member,
    tokenizer: PreTrainedTokenizerBase,
    recorded: Recorded,
    prompts: Sequence[Any],
    batch_size: int | None,
    advance: Callable[[int], None],
) -> list[str]:
    """The texts with which a member continues prompts.

    Args:
        family: Teacher and student in memory.
        member: Which member.
        tokenizer: The teacher's tokenizer.
        recorded: The task.
        prompts: Some of its prompts.
        batch_size: Prompts of a call; None for a reasonable number.
        advance: Called with the number of texts that are new.

    Raises:
        ResultsError: The member's logits are not finite, which would make any text noise.
    """
    with quiet(logging.ERROR), task_errors(recorded.items.task, "cannot generate"):
        size = _BATCH_SIZE if batch_size is None else batch_size
        harness = HFLM(**harness_arguments(family.model(member), tokenizer, batch_size=size))
        _check_sound(member, harness, prompts[0].args[0])
        while True:
            done = _Count(advance)
            harness.set_cache_hook(done)
            seed_everything([recorded.task])
            try:
                return harness.generate_until(list(prompts), disable_tqdm=True)
            except torch.OutOfMemoryError:
                if harness.batch_size_per_gpu == 1:
                    raise
                harness.batch_size_per_gpu //= 2
                advance(-done.texts)


class _Count:
    """Counts texts; the harness calls it as a cache of answers, batch by batch."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.texts = 0
        self._advance = advance

    def add_partial(self, kind: str, request: Any, text: str) -> None:
        self.texts += 1
        self._advance(1)


def _check_sound(member: Member, harness: HFLM, prompt: str) -> None:
    """One short forward: generation itself takes a token from whatever logits there are."""
    tokens = harness.tok_encode(prompt)[:_TOKENS_READ] or [harness.prefix_token_id]
    with torch.no_grad():
        logits = harness.model(torch.tensor([tokens], device=harness.device)).logits
    # Finite where a token may be ruled out (-inf), but none is NaN or +inf.
    check_finite([member], np.asarray(logits.float().logsumexp(-1).cpu()))
