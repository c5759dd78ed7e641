"""Rows of several sources in given proportions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def interleave(streams: Sequence[Iterator[T]], weights: Sequence[float]) -> Iterator[tuple[int, T]]:
    """Take from each stream in proportion to its weight, as evenly as whole items allow.

    Nothing is drawn at random: the next item is of the stream that is furthest behind its share
    (the divisor method of Webster), so that any stretch of the result holds the sources in these
    proportions. It ends when the stream whose turn it is has no more; what is left of the others is
    not used, and nothing is repeated.

    Args:
        streams: At least one.
        weights: A positive number for each; only their ratios count.

    Yields:
        The number of the stream and the item.
    """
    taken = [0] * len(streams)
    while True:
        turn = min(range(len(streams)), key=lambda i: (taken[i] + 0.5) / weights[i])
        for item in streams[turn]:
            taken[turn] += 1
            yield turn, item
            break
        else:
            return
