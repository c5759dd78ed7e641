"""Requests laid out in rows: tokens that several requests begin with are there once.

A row is a prefix tree of token sequences, its tokens listed depth first. Token j is seen by the
tokens from j to the end of its own subtree, and by no others. So one number for each token defines
the attention mask. A row without branches is plain causal text and needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Ints = NDArray[np.int64]
Request = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, and of the continuation whose log-likelihood is wanted."""

# A mask has an entry for each pair of tokens of a row.
_LONGEST_BRANCHED = 4096

# Joining must save at least a quarter of a sequence's work: a mask has its own costs.
_WORTHWHILE = 0.75


@dataclass(frozen=True)
class Read:
    """Where in a row a request's continuation is predicted.

    Attributes:
        request: The request's index.
        places: Shape (targets,): the token at `places[k]` predicts `targets[k]`.
        targets: Shape (targets,): the continuation.
    """

    request: int
    places: Ints
    targets: Ints


@dataclass(frozen=True)
class Row:
    """One or more requests as one row of tokens, all arrays of shape (tokens,).

    Attributes:
        tokens: Token ids.
        positions: How many tokens precede each in its own sequence.
        ends: Token j is seen by the tokens j, ..., ends[j] - 1.
        reads: The requests.
    """

    tokens: Ints
    positions: Ints
    ends: Ints
    reads: tuple[Read, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branched(self) -> bool:
        """Whether some token does not see all tokens before it."""
        return bool((self.ends != len(self)).any())


def encode(request: Request, max_length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that a model is fed, and those that it must predict at the last positions.

    A context that does not fit is cut from the left, as lm-evaluation-harness cuts it.

    Args:
        request: Context and continuation, at least a token each.
        max_length: The most tokens a model is fed.

    Raises:
        DataError: The context or the continuation is empty, or the continuation too long.
    """
    context, continuation = (tuple(part) for part in request)
    if not context or not continuation:
        raise DataError("a request has an empty context or continuation")
    if len(continuation) > max_length:
        raise DataError(
            f"a continuation of {len(continuation)} tokens does not fit in {max_length} positions"
        )
    return (context + continuation)[-(max_length + 1) :][:-1], continuation


def lay_out(
    requests: Sequence[Request], *, max_length: int, branch_limit: int, width: int
) -> list[Row]:
    """Requests in rows; requests that begin alike share a row.

    A request joins a row if that is clearly less work than a row of its own. A layer multiplies
    about 12 D² times for a token, and 2 D times for a pair of tokens, masked or not.

    Args:
        requests: What to lay out.
        max_length: As in `encode`.
        branch_limit: The most positions of a sequence in a row with branches. With 0 there are no
            branches: requests share a row only if each is the beginning of the next.
        width: D, the width of the model.

    Raises:
        DataError: As `encode`.
    """
    encoded = [encode(request, max_length) for request in requests]
    rows, tree = [], _Tree()
    # In this order every sequence shares the most tokens with the one before it.
    for index in sorted(range(len(encoded)), key=lambda i: encoded[i][0]):
        tokens, targets = encoded[index]
        if not tree.takes(tokens, branch_limit, width):
            rows.append(tree.row())
            tree = _Tree()
        tree.add(index, tokens, targets)
    return [*rows, tree.row()] if encoded else []


class _Tree:
    """A row as it grows, by sequences in lexicographic order."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._ends: list[int] = []
        self._reads: list[Read] = []
        # The last sequence, and the place of each of its tokens.
        self._last: tuple[int, ...] = ()
        self._path: list[int] = []
        self._deepest = 0

    def takes(self, tokens: tuple[int, ...], branch_limit: int, width: int) -> bool:
        """Whether a sequence belongs in this row."""
        shared = self._shared(tokens)
        before, after = len(self._tokens), len(self._tokens) + len(tokens) - shared
        if shared == before:
            return True
        fits = max(self._deepest, len(tokens)) <= branch_limit and after <= _LONGEST_BRANCHED
        extra = _work(after, width) - _work(before, width)
        return fits and extra <= _WORTHWHILE * _work(len(tokens), width)

    def add(self, request: int, tokens: tuple[int, ...], targets: tuple[int, ...]) -> None:
        """Add a sequence: the tokens that a model is fed, and its targets."""
        shared = self._shared(tokens)
        self._close(shared)
        new = range(len(self._tokens), len(self._tokens) + len(tokens) - shared)
        self._tokens.extend(tokens[shared:])
        self._positions.extend(range(shared, len(tokens)))
        self._ends.extend(new)
        self._path = [*self._path[:shared], *new]
        self._last, self._deepest = tokens, max(self._deepest, len(tokens))
        places = np.array(self._path[len(tokens) - len(targets) :], dtype=np.int64)
        self._reads.append(Read(request, places, np.array(targets, dtype=np.int64)))

    def row(self) -> Row:
        """The finished row."""
        self._close(0)
        tokens, positions, ends = (
            np.array(values, dtype=np.int64)
            for values in (self._tokens, self._positions, self._ends)
        )
        return Row(tokens, positions, ends, tuple(self._reads))

    def _shared(self, tokens: tuple[int, ...]) -> int:
        """How many leading tokens a sequence shares with the last one."""
        pairs = enumerate(zip(self._last, tokens, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(self._last), len(tokens)))

    def _close(self, depth: int) -> None:
        """End the subtrees of the last sequence's tokens at and below a depth."""
        for place in self._path[depth:]:
            self._ends[place] = len(self._tokens)


def _work(tokens: int, width: int) -> int:
    """A row's work in a layer, in units of 2 D multiplications."""
    return 6 * width * tokens + tokens * tokens
