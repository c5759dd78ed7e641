"""Text as a task: windows to score, and perplexity and bits per byte from their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..layers import Member
from ..models.modules import max_positions
from ..text.documents import read_documents
from ..text.windows import Text, default_stride, prepare
from .options import Measure
from .results import BITS_PER_BYTE, DIFFERENCE, PERPLEXITY, Row
from .statistics import Estimate, Floats, exponential, paired_difference, ratio, scaled
from .task import MeasuredMember, Reference, TaskItems

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from .store import Store

DEFAULT_WINDOW = 2048
"""Positions a model sees at once by default: the sequence length of the paper."""


@dataclass(frozen=True)
class Scores:
    """How well one model predicts a text; the items are the windows.

    Attributes:
        nll: Shape (windows,), float64: negative log-likelihood of each window's targets, in nats.
        tokens: Shape (windows,), float64: how many targets each window has.
        num_bytes: UTF-8 bytes of the text.
    """

    nll: Floats
    tokens: Floats
    num_bytes: int

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
        return exponential(self.nats_per_token)

    @property
    def bits_per_byte(self) -> Estimate:
        """Total negative log-likelihood in bits / bytes: comparable across tokenizers.

        The bytes per token are a property of the text, the same for every model, and are taken as
        exact in the standard error.
        """
        tokens_per_byte = float(self.tokens.sum()) / self.num_bytes
        return scaled(self.nats_per_token, tokens_per_byte / math.log(2))


def fit_window(config: PretrainedConfig, window: int = DEFAULT_WINDOW) -> int:
    """The window asked for, or what the model has positions for where that is less.

    Args:
        config: The model's config; one without a limit takes any window.
        window: The positions asked for.
    """
    limit = max_positions(config)
    return window if limit is None else min(window, limit)


@dataclass(frozen=True)
class TextTask:
    """Text to measure on.

    Attributes:
        items: The windows as token requests.
        text: The windows.
        in_own_tokens: Whether the windows are those of another model than the family's, with other
            tokens or fewer positions: then only bits per byte can be compared.
    """

    items: TaskItems
    text: Text
    in_own_tokens: bool = False

    @property
    def max_length(self) -> int:
        """The most tokens a model is fed."""
        return max(len(window.inputs) for window in self.text.windows)

    def generate(
        self, member: Member, items: Sequence[int], advance: Callable[[int], None]
    ) -> list[str]:
        """Never called: text has no prompts."""
        raise NotImplementedError

    def rows(self, store: Store, member: MeasuredMember, smaller: Member | None) -> list[Row]:
        """Perplexity, bits per byte, and the difference to the member one size below."""
        scores = self._scores(store, member, member.member)
        assert scores is not None
        bits, perplexity = scores.bits_per_byte, scores.perplexity
        values = [(BITS_PER_BYTE, bits.value, bits.stderr)]
        if not self.in_own_tokens:
            values.insert(0, (PERPLEXITY, perplexity.value, perplexity.stderr))
            other = smaller and self._scores(store, member, smaller)
            if other:
                values.append((DIFFERENCE, *paired_difference(perplexity, other.perplexity)))
        return [
            member.row(self.items.task, metric, value, stderr, items=len(scores.nll))
            for metric, value, stderr in values
        ]

    def _scores(self, store: Store, measured: MeasuredMember, member: Member) -> Scores | None:
        answers = store.answers(measured.student, member, self.items)
        if answers is None:
            return None
        return Scores.of(self.text, -np.array([float(answer[0]) for answer in answers]))


def text_task(
    config: PretrainedConfig,
    what: Measure,
    tokenizer: PreTrainedTokenizerBase,
    reference: Reference | None,
) -> TextTask:
    """The task of scoring text, in the windows of the family.

    Args:
        config: The model's, or that of the family's teacher.
        what: Names the files.
        tokenizer: The model's.
        reference: The family, where the model is not a member of it.
    """
    common = Reference((), config, tokenizer) if reference is None else reference
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
    )
    return TextTask(items, own, in_own_tokens=own.hash != text.hash)
