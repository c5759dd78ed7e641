"""Rows as plain arithmetic: nothing lost, nothing twice, nothing learned across documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from boomerang.text.pack import Document, Row, interleave, packed, padded

LENGTHS = st.lists(st.integers(1, 30), max_size=40)
PADDING = 10_000


def documents(lengths: list[int], response_only: bool = False) -> list[Document]:
    """Documents whose tokens all differ; of conversations the second half is learned."""
    ends = np.cumsum([0, *lengths])
    made = []
    for begin, end in pairwise(ends):
        tokens = np.arange(begin, end, dtype=np.int32)
        learned = tokens >= (begin + end) / 2 if response_only else np.ones(end - begin, np.bool_)
        made.append(Document(tokens, learned, response_only))
    return made


def check_rows(rows: list[Row], given: list[Document], length: int) -> None:
    """What holds for all rows: tokens, where documents begin, targets, aligned places."""
    first = {int(document.tokens[0]): document for document in given}
    learned = {int(t): document for document in given for t in document.tokens[document.targets]}
    seen: list[int] = []
    for row in rows:
        assert all(len(array) == length for array in row[:4])
        assert (row.tokens[row.length :] == PADDING).all()
        assert not row.targets[row.length :].any() and not row.aligned[row.length :].any()
        assert row.starts[0] and (row.length == length or row.starts[row.length])
        for place, token in enumerate(row.tokens[: row.length].tolist()):
            seen.append(token)
            goes_on = not row.starts[place]
            assert goes_on <= (token == row.tokens[place - 1] + 1)
            assert not (goes_on and token in first)
            assert row.targets[place] == (goes_on and token in learned)
            owner = next(d for d in given if d.tokens[0] <= token <= d.tokens[-1])
            following = place + 1 < row.length and bool(row.targets[place + 1])
            assert row.aligned[place] == (following if owner.response_only else True)
    assert sorted(seen) == list(range(sum(len(document.tokens) for document in given)))


@given(lengths=LENGTHS, length=st.integers(2, 20))
def test_packed_texts_fill_every_row_but_the_last(lengths: list[int], length: int) -> None:
    given = documents(lengths)
    rows = list(packed(given, length, PADDING))
    check_rows(rows, given, length)
    assert all(row.length == length for row in rows[:-1])
    stream = [token for row in rows for token in row.tokens[: row.length].tolist()]
    assert stream == sorted(stream)


@given(lengths=LENGTHS, length=st.integers(2, 20), response_only=st.booleans())
def test_padded_documents_begin_a_row_each(
    lengths: list[int], length: int, response_only: bool
) -> None:
    given = documents(lengths, response_only)
    rows = list(padded(given, length, PADDING))
    check_rows(rows, given, length)
    assert len(rows) == sum(-(-n // length) for n in lengths)


@given(lengths=LENGTHS, length=st.integers(2, 20))
def test_packed_conversations_are_cut_only_where_they_are_longer_than_a_row(
    lengths: list[int], length: int
) -> None:
    given = documents(lengths, response_only=True)
    rows = list(packed(given, length, PADDING))
    check_rows(rows, given, length)
    pieces = sum(int(row.starts[: row.length].sum()) for row in rows)
    assert pieces == sum(-(-n // length) for n in lengths)


@given(texts=LENGTHS, talks=LENGTHS, length=st.integers(2, 20))
def test_texts_and_conversations_may_come_together(
    texts: list[int], talks: list[int], length: int
) -> None:
    mixed = [
        Document(d.tokens, d.targets, bool(i % 2)) for i, d in enumerate(documents(texts + talks))
    ]
    check_rows(list(packed(mixed, length, PADDING)), mixed, length)


def test_rows_of_conversations_are_nearly_full() -> None:
    lengths = np.random.default_rng(0).integers(20, 700, 2000).tolist()
    rows = len(list(packed(documents(lengths, response_only=True), 1024, PADDING)))
    one_after_the_other, room = 1, 1024
    for length in lengths:
        if length > room:
            one_after_the_other, room = one_after_the_other + 1, 1024
        room -= length
    full = sum(lengths) / 1024
    assert round(full / rows, 2) == 0.98
    assert round(full / one_after_the_other, 2) == 0.76


def test_few_documents_are_held_at_a_time() -> None:
    taken = 0

    def endless(response_only: bool) -> Iterator[Document]:
        nonlocal taken
        while True:
            taken += 1
            yield Document(np.zeros(5, np.int32), np.ones(5, np.bool_), response_only)

    for response_only, most in ((False, 20), (True, 300)):
        taken = 0
        list(islice(packed(endless(response_only), 16, 0), 5))
        assert taken <= most


def test_sources_are_mixed_in_proportion_everywhere() -> None:
    streams = [iter(["a"] * 300), iter(["b"] * 1000)]
    taken = [item for _, item in interleave(streams, [3, 1])]
    # The first runs out; all of the second is there, but only its share is used.
    assert (taken.count("a"), taken.count("b")) == (300, 100)
    for end in range(1, len(taken)):
        assert abs(taken[:end].count("a") - 0.75 * end) <= 1
    assert [n for n, _ in interleave([iter("ab"), iter("cd")], [1, 1])] == [0, 1, 0, 1]
    assert list(interleave([iter("abc")], [0.5])) == [(0, "a"), (0, "b"), (0, "c")]
    assert list(interleave([iter(""), iter("b")], [1, 1])) == []
