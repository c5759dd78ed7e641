"""Scoring the members of a family that is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ResultsError
from ..family import Family
from ..layers import Member, Order
from ..text.windows import Window, prepare
from .layout import Ints
from .perplexity import DEFAULT_WINDOW, Scores, fit_window
from .progress import progress_bar
from .scorer import Scorer
from .statistics import Floats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class MemberScore:
    """A member, its size, and how well it predicts a text.

    Attributes:
        member: Which member.
        parameters: Its parameters, a tied head counted once.
        bytes: Bytes they take in memory, in the dtype they were measured in.
        scores: Log-likelihoods by window; `scores.perplexity` and `scores.bits_per_byte`.
    """

    member: Member
    parameters: int
    bytes: int
    scores: Scores


def evaluate_family(
    family: Family,
    documents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    window: int = DEFAULT_WINDOW,
    stride: int | None = None,
    batch_size: int | None = None,
) -> list[MemberScore]:
    """Score members of a live family on text, all on the same windows, in one pass.

    Args:
        family: Teacher and student in memory; neither is changed, nor is its training mode.
        documents: Texts.
        tokenizer: The teacher's tokenizer.
        members: Values of patch, or members; by default every member along the order.
        order: The order of patching; by default the family's own.
        window: The most positions a member sees at once; less where the models have fewer.
        stride: As in `cut_windows`; by default half the window.
        batch_size: Windows per call of a model; by default a reasonable number of tokens.

    Returns:
        One score a member, in the order asked for (by default from student to teacher). Compare two
        by `paired_difference(a.scores.perplexity, b.scores.perplexity)`.

    Raises:
        LayerMapError: No such member.
        DataError: Window or stride out of range, or nothing to score.
        ResultsError: A log-likelihood is not finite.
    """
    chosen = choose_members(family, members, order)
    window = fit_window(family.teacher.config, window)
    text = prepare(documents, tokenizer, window=window, stride=stride)
    nll = np.zeros((len(chosen), len(text.windows)))
    with progress_bar("Measuring", nll.size) as advance:
        for windows, values in score_windows(family, chosen, text.windows, batch_size=batch_size):
            nll[:, windows] = values
            advance(values.size)
    return [
        MemberScore(member, *size_in_memory(family, member), Scores.of(text, nll[index]))
        for index, member in enumerate(chosen)
    ]


def choose_members(
    family: Family, members: Iterable[int | Member] | None, order: Order | None
) -> tuple[Member, ...]:
    """The members meant by values of patch along an order, by members, or by None for all.

    Each is there once, however often it is named.

    Raises:
        LayerMapError: No such member or order.
    """
    if members is None:
        return family.layers.members(family.order if order is None else order)
    return tuple(dict.fromkeys(family.member(member, order) for member in members))


def size_in_memory(family: Family, member: Member) -> tuple[int, int]:
    """A member's parameters and their bytes, a tied head counted once."""
    parameters = list(family.model(member).parameters())
    count = sum(parameter.numel() for parameter in parameters)
    return count, sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def score_windows(
    family: Family,
    members: Sequence[Member],
    windows: Sequence[Window],
    *,
    batch_size: int | None = None,
) -> Iterator[tuple[Ints, Floats]]:
    """Score windows of text under several members at once.

    Args:
        family: Teacher and student in memory.
        members: Which members, each once.
        windows: What to score.
        batch_size: Windows per call of a model; by default a reasonable number of tokens.

    Yields:
        Indices of windows that are finished, shape (n,), and their targets' negative
        log-likelihoods in nats, shape (members, n). Every window comes once, the longest first.

    Raises:
        ResultsError: A log-likelihood is not finite.
    """
    if not members or not windows:
        return
    longest = max(len(window.inputs) for window in windows)
    scorer = Scorer.of(family, members, max_length=longest, batch_size=batch_size)
    for scored in scorer.run([window.request for window in windows]):
        check_finite(members, scored.log_likelihood)
        yield scored.requests, -scored.log_likelihood


def check_finite(members: Sequence[Member], log_likelihood: Floats) -> None:
    """Refuse log-likelihoods, shape (members, n), that are not finite.

    Raises:
        ResultsError: One is not; names the member.
    """
    finite = np.isfinite(log_likelihood).all(axis=1)
    if not finite.all():
        raise ResultsError(
            "the model gives log-likelihoods that are not finite",
            where=f"member {list(members[int(finite.argmin())].patched)}",
            fix="its weights are broken, or its dtype is too narrow (try float32)",
        )
