"""The layer arithmetic: properties for any plan, and the paper's own numbers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang import LayerMap
from boomerang.errors import LayerMapError

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())


@st.composite
def layer_maps(draw: st.DrawFn) -> LayerMap:
    num_layers = draw(st.integers(1, 40))
    rest = draw(st.sets(st.integers(1, max(1, num_layers - 1)), max_size=num_layers))
    return LayerMap(sorted({0} | {i for i in rest if i < num_layers}), num_layers)


@st.composite
def maps_with_orders(draw: st.DrawFn) -> tuple[LayerMap, str | list[int]]:
    layers = draw(layer_maps())
    free = st.permutations(range(layers.num_student_layers))
    return layers, draw(st.one_of(st.sampled_from(["last-to-first", "first-to-last"]), free))


@given(layer_maps())
def test_blocks_partition_the_teacher(layers: LayerMap) -> None:
    assert [t for block in layers.blocks for t in block] == list(range(layers.num_layers))
    assert [block[0] for block in layers.blocks] == list(layers.kept)
    assert sorted((*layers.kept, *layers.pruned)) == list(range(layers.num_layers))


@given(layer_maps())
def test_alignment_pairs_each_output_with_its_block_s_last_output(
    layers: LayerMap,
) -> None:
    assert len(layers.alignment) == layers.num_student_layers + 1
    assert layers.alignment[0] == (0, 0)
    assert layers.alignment[-1] == (-1, -1)
    for i, (student, teacher) in enumerate(layers.alignment[1:-1]):
        # hidden_states[t] is the output of layer t - 1.
        assert student - 1 == i
        assert teacher - 1 == layers.blocks[i][-1]


@given(maps_with_orders())
def test_members_grow_from_student_to_teacher(
    plan: tuple[LayerMap, str | list[int]],
) -> None:
    layers, order = plan
    members = layers.members(order=order)
    assert members[0].patched == ()
    assert members[0].sources == tuple(("student", i) for i in range(layers.num_student_layers))
    if layers.max_patch:
        assert members[-1].sources == tuple(("teacher", i) for i in range(layers.num_layers))
    for k, (small, large) in enumerate(pairwise(members)):
        assert (small.patch, large.patch) == (k, k + 1)
        assert small.num_layers < large.num_layers
        assert set(small.patched) < set(large.patched)


@given(maps_with_orders(), st.data())
def test_patch_k_is_the_longest_prefix_with_k_longer_blocks(
    plan: tuple[LayerMap, str | list[int]], data: st.DataObject
) -> None:
    layers, order = plan
    if layers.max_patch < 2:
        return
    k = data.draw(st.integers(1, layers.max_patch - 1))
    sequence = layers.order(order)
    patched = set(layers.member(patch=k, order=order).patched)
    length = len(patched)
    assert set(sequence[:length]) == patched
    assert sum(len(layers.blocks[i]) > 1 for i in patched) == k
    assert len(layers.blocks[sequence[length]]) > 1


@given(layer_maps(), st.data())
def test_sources_of_any_set_of_blocks(layers: LayerMap, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, layers.num_student_layers - 1)))
    member = layers.member(blocks=chosen)
    assert member.patched == tuple(sorted(chosen))
    assert list(member.teacher_layers) == sorted(set(member.teacher_layers))
    assert [i for owner, i in member.sources if owner == "student"] == [
        i for i in range(layers.num_student_layers) if i not in chosen
    ]
    assert member.embedding == ("teacher" if 0 in chosen else "student")
    assert member.head == ("teacher" if layers.num_student_layers - 1 in chosen else "student")
    assert member == layers.member(blocks=list(chosen))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda path: path.name)
def test_golden_plans(case: Path) -> None:
    meta = json.loads((case / "meta.json").read_text())
    layers = LayerMap.every(
        meta["alternate_every_n_layers"],
        num_layers=len(meta["kept"]) + len(meta["cut"]),
        first=meta["first_layers_to_keep"],
        last=meta["last_layers_to_keep"],
    )
    assert list(layers.kept) == meta["kept"]
    assert list(layers.pruned) == meta["cut"]
    assert dict(layers.alignment) == {int(k): v for k, v in meta["aligned_hidden_states"].items()}
    for name, num_layers in meta["members"].items():
        direction, _, k = name.partition("_")
        order = {"last": "last-to-first", "first": "first-to-last"}[direction]
        assert layers.member(patch=int(k), order=order).num_layers == num_layers


@pytest.mark.parametrize(
    ("num_layers", "first", "last", "kept", "largest"),
    [
        (36, 1, 2, [*range(0, 36, 2), 35], 17),
        (32, 1, 2, [*range(0, 32, 2), 31], 15),
        (28, 2, 1, [0, *range(1, 28, 2)], 13),
    ],
)
def test_the_paper_s_students(
    num_layers: int, first: int, last: int, kept: list[int], largest: int
) -> None:
    layers = LayerMap.every(2, num_layers=num_layers, first=first, last=last)
    assert list(layers.kept) == kept
    assert layers.max_patch == largest


def test_the_rule_is_not_a_union_of_first_last_and_every_nth() -> None:
    assert LayerMap.every(3, num_layers=10, first=1, last=2).kept == (0, 3, 6, 7, 8, 9)


def test_one_layer_blocks_move_along_where_patching_starts() -> None:
    member = LayerMap.every(2, num_layers=36).member(patch=1, order="last-to-first")
    expected = [("student", i) for i in range(16)] + [("teacher", i) for i in range(32, 36)]
    assert list(member.sources) == expected


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ([], "empty"),
        ([0, 3, 2], "not sorted"),
        ([0, 2, 2], "repeated"),
        ([0, 4], "out of range"),
        ([-1, 0], "out of range"),
        ([1, 2], "start at 1"),
        ([0, 1.5], "whole numbers"),
        ([False, 1], "whole numbers"),
        (5, "list of whole numbers"),
        (None, "list of whole numbers"),
    ],
)
def test_invalid_kept_lists_are_refused(kept: list[int], message: str) -> None:
    with pytest.raises(LayerMapError, match=message):
        LayerMap(kept, 4)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [1, 2, 3], [0, 1, 2.0]])
def test_orders_that_are_no_permutation_are_refused(order: list[int]) -> None:
    with pytest.raises(LayerMapError):
        LayerMap([0, 2, 4], 5).member(patch=1, order=order)


def test_an_order_is_read_from_a_json_file(tmp_path: Path) -> None:
    layers = LayerMap([0, 2, 4], 6)
    (tmp_path / "order.json").write_text("[1, 2, 0]")
    assert layers.member(patch=1, order=str(tmp_path / "order.json")).patched == (1,)
    (tmp_path / "bad.json").write_text('{"order": [1, 2, 0]}')
    for name, message in (("bad.json", "JSON list"), ("none.json", "no known order")):
        with pytest.raises(LayerMapError, match=message):
            layers.order(str(tmp_path / name))


def test_patch_and_blocks_are_checked() -> None:
    layers = LayerMap([0, 2, 4], 6)
    for wrong in ({"patch": 4}, {"patch": -1}, {"blocks": {3}}, {"blocks": [1, 1]}, {},
                  {"blocks": 3}, {"blocks": [1, "a"]}, {"patch": 1, "order": 3}):  # fmt: skip
        with pytest.raises(LayerMapError):
            layers.member(**wrong)
    with pytest.raises(LayerMapError, match="num_layers is 0"):
        LayerMap([0], 0)
    with pytest.raises(LayerMapError, match="just one"):
        layers.member(patch=1, blocks={1})
