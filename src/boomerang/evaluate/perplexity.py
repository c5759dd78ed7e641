"""Text as a task: windows to score, and perplexity and bits per byte from their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..layers import Member
from ..models.parts import max_positions
from ..text.documents import read_documents
from ..text.windows import Text, default_stride, prepare
from .options import Measure
from .results import BITS_PER_BYTE, DIFFERENCE, PERPLEXITY, Value
from .statistics import Estimate, Floats, paired_difference, ratio
from .store import Store, TaskItems

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

DEFAULT_WINDOW = 2048
"""Positions a model sees at once by default: the sequence length of the paper."""


@dataclass(frozen=True)
class Scores:
    """How well one model predicts a text; the items are the windows."""

    nll: Floats  # (windows,): negative log-likelihood of each window's targets, in nats
    tokens: Floats  # (windows,): the number of targets of each window
    num_bytes: int  # UTF-8 bytes of the text

    @classmethod
    def of(cls, text: Text, nll: Floats) -> Scores:
        """The scores of a text from the negative log-likelihood of each window, in nats."""
        tokens = np.array([float(len(window.targets)) for window in text.windows])
        return cls(nll, tokens, text.num_bytes)

    @property
    def nats_per_token(self) -> Estimate:
        """The mean negative log-likelihood of a token, in nats."""
        return ratio(self.nll, self.tokens)

    @property
    def perplexity(self) -> Estimate:
        """exp(total negative log-likelihood / tokens)."""
        return self.nats_per_token.exp()

    @property
    def bits_per_byte(self) -> Estimate:
        """Total negative log-likelihood in bits / bytes: comparable across tokenizers.

        Its standard error takes tokens per byte, a property of the text, as exact.
        """
        tokens_per_byte = float(self.tokens.sum()) / self.num_bytes
        return self.nats_per_token.scaled(tokens_per_byte / math.log(2))


@dataclass(frozen=True)
class Reference:
    """The family that another model is compared with; its teacher's windows of text are used.

    A model with another tokenizer or fewer positions gets its own, and only bits per byte.
    """

    kept: tuple[int, ...]  # the family's kept layers, by which its results are recognised
    config: PretrainedConfig  # the teacher's
    tokenizer: PreTrainedTokenizerBase  # the teacher's


def fit_window(config: PretrainedConfig, window: int = DEFAULT_WINDOW) -> int:
    """The window asked for, or the model's positions if these are fewer."""
    limit = max_positions(config)
    return window if limit is None else min(window, limit)


@dataclass(frozen=True)
class TextTask:
    """Text to measure on."""

    items: TaskItems  # the windows as token requests
    text: Text
    in_own_tokens: bool  # the windows differ from the family's: only bits per byte are comparable

    def values(self, store: Store, member: Member, smaller: Member | None) -> list[Value]:
        """Perplexity, bits per byte, and the difference to the member one size below."""
        scores = self._scores(store, member)
        assert scores is not None
        bits, perplexity = scores.bits_per_byte, scores.perplexity
        found = [(BITS_PER_BYTE, bits.value, bits.stderr)]
        if not self.in_own_tokens:
            found.insert(0, (PERPLEXITY, perplexity.value, perplexity.stderr))
            other = smaller and self._scores(store, smaller)
            if other:
                found.append((DIFFERENCE, *paired_difference(perplexity, other.perplexity)))
        return [Value(self.items.task, *each, items=len(scores.nll)) for each in found]

    def _scores(self, store: Store, member: Member) -> Scores | None:
        answers = store.answers(member, self.items)
        if answers is None:
            return None
        return Scores.of(self.text, -np.array([float(answer[0]) for answer in answers]))


def text_task(
    config: PretrainedConfig,
    what: Measure,
    tokenizer: PreTrainedTokenizerBase,
    reference: Reference | None,
) -> TextTask:
    """The task of scoring the texts of `what` with a model of this config and tokenizer.

    `reference` is the family, where the model is not a member of it.
    """
    common = reference or Reference((), config, tokenizer)
    window = fit_window(common.config, what.window or DEFAULT_WINDOW)
    stride = what.stride or default_stride(window)
    paths = [Path(path) for path in what.texts or ()]
    documents = read_documents(paths)
    text = prepare(documents, common.tokenizer, window=window, stride=stride)
    own, fitting = text, fit_window(config, window)
    if tokenizer is not common.tokenizer or fitting != window:
        own = prepare(documents, tokenizer, window=fitting, stride=min(stride, fitting))
    items = TaskItems(
        task=paths[0].stem if len(paths) == 1 else "text",
        content=own.hash,
        settings={"text": text.hash, "window": window, "stride": stride},
        requests=[each.request for each in own.windows],
        documents=range(len(own.windows)),
        max_length=max(len(each.inputs) for each in own.windows),
    )
    return TextTask(items, own, in_own_tokens=own.hash != text.hash)
