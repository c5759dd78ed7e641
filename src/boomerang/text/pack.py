"""Documents as rows of one length; plain arithmetic on arrays.

**Packed**: texts one after the other, cut where a row is full; a conversation is put whole into a
row that has room for it, among a few that are open. **Padded**: each document begins a row. In
both, the first token of a document, and of what goes on from the row before, is no target: nothing
before it belongs to the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
T = TypeVar("T")

# Rows that conversations are sorted into: with more there is less padding, but the order of the
# text is less kept.
_OPEN = 32


@dataclass(frozen=True)
class Document:
    """A tokenised text or conversation of n tokens.

    Args:
        tokens: `[n]`, at least one.
        targets: `[n]`, the tokens that are learned.
        response_only: Align states only where a target is predicted, as for conversations.
    """

    tokens: Tokens
    targets: Mask
    response_only: bool = False


class Row(NamedTuple):
    """S tokens; the arrays are `[S]`, all but the first bool.

    Attributes:
        tokens: Token ids; padding stands at the end.
        starts: Where a document, the continuation of one, or the padding begins.
        targets: The tokens that are learned.
        aligned: Where the states of student and teacher are compared.
        length: The number of real tokens.
    """

    tokens: Tokens
    starts: Mask
    targets: Mask
    aligned: Mask
    length: int


class _Piece(NamedTuple):
    tokens: Tokens
    targets: Mask
    aligned: Mask


def packed(documents: Iterable[Document], length: int, padding: int) -> Iterator[Row]:
    """Several documents in a row of `length` tokens; every token is in exactly one row.

    Texts fill all rows but the last. Conversations leave padding at the end of rows, because only
    one that is longer than a row is cut.
    """
    line: list[_Piece] = []
    room = length
    open_rows: list[list[_Piece]] = []
    for document in documents:
        if document.response_only:
            for piece in _cut(document, length):
                full = _sort_in(piece, open_rows, length)
                if full is not None:
                    yield _row(full, length, padding)
            continue
        begin = 0
        while begin < len(document.tokens):
            line.append(_piece(document, begin, begin + room))
            begin += len(line[-1].tokens)
            room -= len(line[-1].tokens)
            if not room:
                yield _row(line, length, padding)
                line, room = [], length
    for rest in [line, *open_rows]:
        if rest:
            yield _row(rest, length, padding)


def padded(documents: Iterable[Document], length: int, padding: int) -> Iterator[Row]:
    """One document a row, or several rows where it is longer; the rest of a row is padding."""
    for document in documents:
        for piece in _cut(document, length):
            yield _row([piece], length, padding)


def _sort_in(piece: _Piece, open_rows: list[list[_Piece]], length: int) -> list[_Piece] | None:
    """Put a piece into the open row it fills best; returns a row that is done with."""
    fitting = [row for row in open_rows if _size(row) + len(piece.tokens) <= length]
    row = max(fitting, key=_size, default=None)
    if row is None:
        open_rows.append([piece])
    else:
        row.append(piece)
    fullest = max(range(len(open_rows)), key=lambda index: _size(open_rows[index]))
    if _size(open_rows[fullest]) < length and len(open_rows) <= _OPEN:
        return None
    return open_rows.pop(fullest)


def _size(pieces: Sequence[_Piece]) -> int:
    return sum(len(piece.tokens) for piece in pieces)


def _cut(document: Document, length: int) -> Iterator[_Piece]:
    for begin in range(0, len(document.tokens), length):
        yield _piece(document, begin, begin + length)


def _piece(document: Document, begin: int, end: int) -> _Piece:
    """Tokens `begin` to `end` of a document, as if it had no others."""
    targets = document.targets[begin:end].copy()
    targets[0] = False
    aligned = np.append(targets[1:], False) if document.response_only else np.ones_like(targets)
    return _Piece(document.tokens[begin:end], targets, aligned)


def _row(pieces: Sequence[_Piece], length: int, padding: int) -> Row:
    used = _size(pieces)
    none = np.zeros(length, np.bool_)
    row = Row(np.full(length, padding, np.int32), none, none.copy(), none.copy(), used)
    begin = 0
    for piece in pieces:
        end = begin + len(piece.tokens)
        row.starts[begin] = True
        row.tokens[begin:end], row.targets[begin:end], row.aligned[begin:end] = piece
        begin = end
    if used < length:
        row.starts[used] = True
    return row


def interleave(streams: Sequence[Iterator[T]], weights: Sequence[float]) -> Iterator[tuple[int, T]]:
    """Take from each stream in proportion to its weight; yields the stream's number and the item.

    The next item is of the stream that is furthest behind its share (the divisor method of
    Webster); nothing is drawn at random. It ends when the stream whose turn it is has no more;
    what is left of the others is not used.
    """
    taken = [0] * len(streams)
    while True:
        turn = min(range(len(streams)), key=lambda i: (taken[i] + 0.5) / weights[i])
        try:
            item = next(streams[turn])
        except StopIteration:
            return
        taken[turn] += 1
        yield turn, item
