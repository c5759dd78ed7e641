"""Scoring the members of a family that is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..family import Family
from ..layers import Member, Order
from .documents import Text, prepare
from .perplexity import DEFAULT_WINDOW, Scores, fit_window, score_text
from .progress import progress_bar

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
    batch_size: int = 8,
) -> list[MemberScore]:
    """Score members of a live family on text, all on the same windows.

    Args:
        family: Teacher and student in memory; neither is changed, nor is its training mode.
        documents: Texts.
        tokenizer: The teacher's tokenizer.
        members: Values of patch, or members; by default every member along the order.
        order: The order of patching; by default the family's own.
        window: The most positions a member sees at once; less where the models have fewer.
        stride: As in `cut_windows`; by default half the window.
        batch_size: Windows per call of a model.

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
    with progress_bar("Measuring", len(chosen) * len(text.windows)) as advance:
        return list(score_members(family, chosen, text, batch_size=batch_size, advance=advance))


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


def score_members(
    family: Family,
    members: Iterable[Member],
    text: Text,
    *,
    batch_size: int = 8,
    advance: Callable[[int], None] | None = None,
) -> Iterator[MemberScore]:
    """Score members one after the other, each as soon as it is asked for.

    Args:
        family: Teacher and student in memory.
        members: Which members.
        text: From `prepare`.
        batch_size: Windows per call of a model.
        advance: Called with the number of windows after each call of a model.

    Raises:
        ResultsError: A log-likelihood is not finite.
    """
    for member in members:
        model = family.model(member).eval()
        scores = score_text(model, text, batch_size=batch_size, advance=advance)
        parameters = list(model.parameters())
        yield MemberScore(
            member,
            sum(parameter.numel() for parameter in parameters),
            sum(parameter.numel() * parameter.element_size() for parameter in parameters),
            scores,
        )
