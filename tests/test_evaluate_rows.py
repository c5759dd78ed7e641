"""The arithmetic below the scorer: the walk over a trie of layers, requests laid out in rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang import LayerMap
from boomerang.errors import DataError
from boomerang.evaluate.batches import split
from boomerang.evaluate.request_rows import Row, encode, lay_out
from boomerang.evaluate.shared_layers import walk

QWEN3_4B = LayerMap.every(2, num_layers=36, first=1, last=2)

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@pytest.mark.parametrize(("order", "passes"), [("last-to-first", 359), ("first-to-last", 223)])
def test_layer_passes_of_a_real_family(order: str, passes: int) -> None:
    paths = [member.sources for member in QWEN3_4B.members(order)]
    assert sum(map(len, paths)) == 495
    visits = walk(paths)
    assert sum(len(paths[visit.path]) - visit.skip for visit in visits) == passes
    held: set[int] = set()
    for visit in visits:
        held -= {visit.skip} if visit.last else set()
        held |= visit.keep
        assert len(held) <= 1


@given(st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple), min_size=1))
def test_a_walk_runs_every_prefix_once_and_holds_what_it_needs(
    chosen: set[tuple[int, ...]],
) -> None:
    paths = sorted(chosen)
    held: dict[int, tuple[int, ...]] = {}
    ran: list[tuple[int, ...]] = []
    most = 0
    for visit in walk(paths):
        path = paths[visit.path]
        if visit.skip:
            assert held[visit.skip] == path[: visit.skip]
        if visit.last:
            del held[visit.skip]
        most = max(most, len(held))
        ran += [path[:depth] for depth in range(visit.skip + 1, len(path) + 1)]
        assert all(visit.skip < depth <= len(path) for depth in visit.keep)
        held |= {depth: path[:depth] for depth in visit.keep}
        most = max(most, len(held))
    assert not held
    assert sorted(visit.path for visit in walk(paths)) == list(range(len(paths)))
    assert len(ran) == len(set(ran))
    assert set(ran) == {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    assert most <= math.log2(len(paths))


def test_equal_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal"):
        walk([(1, 2), (1, 2)])


def sequence(row: Row, place: int) -> tuple[list[int], list[int]]:
    """The tokens that a token sees, and their positions."""
    seen = [j for j in range(place + 1) if place < row.ends[j]]
    return row.tokens[seen].tolist(), row.positions[seen].tolist()


@given(
    st.lists(st.tuples(tokens, tokens), min_size=1, max_size=12),
    st.integers(6, 10),
    st.sampled_from([0, 4, 10]),
    st.sampled_from([1, 1000]),
)
def test_every_request_is_read_behind_its_own_tokens(
    requests: list[tuple[list[int], list[int]]], max_length: int, limit: int, width: int
) -> None:
    rows = lay_out(requests, max_length=max_length, branch_limit=limit, width=width)
    found = sorted((read.request, number) for number, row in enumerate(rows) for read in row.reads)
    assert [request for request, _ in found] == list(range(len(requests)))
    for row in rows:
        for read in row.reads:
            inputs, targets = encode(requests[read.request], max_length)
            assert read.targets.tolist() == list(targets)
            for offset, place in enumerate(read.places):
                end = len(inputs) - len(targets) + offset + 1
                assert sequence(row, place) == (list(inputs[:end]), list(range(end)))
            assert len(inputs) <= limit or not row.branched
    assert limit or not any(row.branched for row in rows)
    alone = sum(len(encode(request, max_length)[0]) for request in requests)
    assert sum(map(len, rows)) <= alone


@given(tokens, tokens, st.integers(6, 12))
def test_contexts_are_cut_as_the_harness_cuts_them(
    context: list[int], continuation: list[int], max_length: int
) -> None:
    inputs, targets = encode((context, continuation), max_length)
    assert list(inputs) == (context + continuation)[-(max_length + 1) :][:-1]
    assert list(targets) == continuation


@pytest.mark.parametrize(
    ("request_", "message"), [(([], [1]), "empty"), (([1], []), "empty"), (([1], [1] * 9), "fit")]
)
def test_requests_that_cannot_be_scored(
    request_: tuple[Sequence[int], Sequence[int]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encode(request_, 8)


def lengths(rows: Sequence[Row]) -> list[int]:
    return [len(row) for row in rows]


def test_choices_share_their_context() -> None:
    context = list(range(10, 60))
    choices = [(context, [i, i + 1, i + 2]) for i in range(4)]
    assert lengths(lay_out(choices, max_length=99, branch_limit=99, width=64)) == [58]
    assert lengths(lay_out(choices, max_length=99, branch_limit=0, width=64)) == [52] * 4
    # Sequences that are longer than the limit stand alone, and so do those that share too little.
    assert lengths(lay_out(choices, max_length=99, branch_limit=51, width=64)) == [52] * 4
    sentences = [([1], [i, *range(100, 120)]) for i in range(2, 6)]
    assert lengths(lay_out(sentences, max_length=99, branch_limit=99, width=64)) == [21] * 4
    # One-token continuations differ in nothing that a model is fed.
    (row,) = lay_out([(context, [i]) for i in range(4)], max_length=99, branch_limit=0, width=64)
    assert (len(row), row.branched, len(row.reads)) == (50, False, 4)


def test_calls_are_of_one_kind_bounded_and_hardly_padded() -> None:
    plain, mixed = (
        sorted(lay_out(requests, max_length=99, branch_limit=99, width=64), key=lambda r: -len(r))
        for requests in (
            [([i], [1] * length) for i, length in enumerate((40, 40, 38, 36, 10, 10, 4))],
            [([i] * 40, [j] * 5) for i in range(3) for j in range(2)],
        )
    )
    rows = [*plain, *mixed]
    sizes = []
    while rows:
        batch, rows = split(rows, 100, None)
        sizes.append(lengths(batch))
    assert sizes == [[40, 40], [38, 36], [10, 10, 4], [48, 48], [48]]
    assert lengths(split(plain, 100, 5)[0]) == [40, 40, 38, 36, 10]
    assert lengths(split(plain, 1, None)[0]) == [40]
