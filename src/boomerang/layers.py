"""The layer arithmetic: which teacher layers a student keeps, and what every member is made of.

A teacher of N layers is cut into M contiguous **blocks**; student layer i is the first layer of
block i (boomerang distillation, arXiv 2510.05064, section 3). To **patch** student layer i is to
put its whole block in its place. Nothing here knows about tensors, files or models.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

from .errors import LayerMapError

Owner = Literal["student", "teacher"]
Order = str | Path | Sequence[int]

LAST_TO_FIRST = "last-to-first"
FIRST_TO_LAST = "first-to-last"


@dataclass(frozen=True)
class LayerMap:
    """The teacher layers a student was cut from.

    Args:
        kept: Teacher layer indices, increasing, the first one 0. Student layer i is a copy of
            teacher layer `kept[i]`.
        num_layers: N, the number of teacher layers.

    Raises:
        LayerMapError: `kept` is empty, unsorted, repeated, out of range or does not start at 0.
    """

    kept: tuple[int, ...]
    num_layers: int

    def __init__(self, kept: Iterable[int], num_layers: int) -> None:
        object.__setattr__(self, "kept", _integers(kept, "kept layers"))
        object.__setattr__(self, "num_layers", _integers([num_layers], "num_layers")[0])
        _check_kept(self.kept, self.num_layers)

    @classmethod
    def every(cls, n: int, num_layers: int, first: int = 1, last: int = 2) -> LayerMap:
        """Keep every n-th layer between the `first` and the `last` ones.

        For j = first+n-1, first+2n-1, ... <= num_layers-last the layers j-n+1 ... j-1 are pruned
        and all others kept, as the reference initialises students. This is not the union of
        "first", "last" and "every n-th".

        Args:
            n: Step; 1 keeps every layer.
            num_layers: N, the number of teacher layers.
            first: How many layers are kept at the start, at least 1.
            last: How many layers are kept at the end, at least 0.

        Raises:
            LayerMapError: A number is out of range.
        """
        n, num_layers, first, last = _integers([n, num_layers, first, last], "every, first, last")
        for name, value, least in (("every", n, 1), ("first", first, 1), ("last", last, 0)):
            if value < least:
                raise LayerMapError(f"{name} is {value}", fix=f"give at least {least}")
        if num_layers < first or num_layers < last:
            raise LayerMapError(
                f"cannot keep the first {first} and last {last} of {num_layers} layers"
            )
        pruned: set[int] = set()
        for j in range(first + n - 1, num_layers - last + 1, n):
            pruned.update(range(j - n + 1, j))
        return cls((i for i in range(num_layers) if i not in pruned), num_layers)

    @cached_property
    def pruned(self) -> tuple[int, ...]:
        """The teacher layers that are not kept, increasing."""
        kept = set(self.kept)
        return tuple(i for i in range(self.num_layers) if i not in kept)

    @cached_property
    def blocks(self) -> tuple[range, ...]:
        """Block i: the teacher layers `kept[i] ... kept[i+1]-1`; the last block ends at N."""
        ends = (*self.kept[1:], self.num_layers)
        return tuple(range(start, end) for start, end in zip(self.kept, ends, strict=True))

    @cached_property
    def alignment(self) -> tuple[tuple[int, int], ...]:
        """The M+1 pairs (student state, teacher state) that training pulls together.

        In the indices of transformers' `hidden_states`: 0 is the embedding output, i the output of
        layer i-1, and -1 the last one, after the final norm. The output of student layer i goes
        with the output of the last layer of its block (arXiv 2510.05064, section 3.2).
        """
        inner = tuple((i, self.kept[i]) for i in range(1, self.num_student_layers))
        return ((0, 0), *inner, (-1, -1))

    @property
    def num_student_layers(self) -> int:
        """M, the number of student layers."""
        return len(self.kept)

    @cached_property
    def max_patch(self) -> int:
        """The largest k of `member(patch=k)`: the number of blocks of more than one layer."""
        return sum(len(block) > 1 for block in self.blocks)

    def order(self, order: Order = LAST_TO_FIRST) -> tuple[int, ...]:
        """The student layers in the order in which they are patched as size grows.

        Args:
            order: `"last-to-first"`, `"first-to-last"`, a permutation of all student layers, or the
                path of a file with that permutation as a JSON list.

        Raises:
            LayerMapError: Not a permutation of 0 ... M-1, no such name, or an unreadable file.
        """
        count = self.num_student_layers
        where: str | None = None
        if isinstance(order, str | Path):
            if order == LAST_TO_FIRST:
                return tuple(reversed(range(count)))
            if order == FIRST_TO_LAST:
                return tuple(range(count))
            where = str(order)
            order = _read_order(Path(order))
        indices = _integers(order, "order", where)
        if sorted(indices) != list(range(count)):
            raise LayerMapError(
                f"order {list(indices)} is no permutation of the student layers 0 to {count - 1}",
                where=where,
                fix="name every student layer exactly once",
            )
        return indices

    def member(
        self,
        patch: int | None = None,
        order: Order = LAST_TO_FIRST,
        *,
        blocks: Iterable[int] | None = None,
    ) -> Member:
        """One member of the family, by size along an order or by the set of its patched layers.

        `patch=k` with 0 < k < max is the longest prefix of the order that holds exactly k blocks of
        more than one layer, so that one-layer blocks follow the block before them in the order. 0
        patches nothing and `max_patch` everything.

        Args:
            patch: k, from 0 to `max_patch`.
            order: As in `order()`; used with `patch` only.
            blocks: The student layers to patch, instead of `patch`.

        Raises:
            LayerMapError: Neither or both of `patch` and `blocks`, or one of them out of range.
        """
        if (patch is None) == (blocks is None):
            raise LayerMapError("a member is chosen by either patch or blocks", fix="give just one")
        if blocks is not None:
            return Member(self, tuple(sorted(_integers(blocks, "blocks"))))
        assert patch is not None
        (patch,) = _integers([patch], "patch")
        if not 0 <= patch <= self.max_patch:
            raise LayerMapError(
                f"patch is {patch}", fix=f"give a number from 0 to {self.max_patch}"
            )
        sequence = self.order(order)
        return Member(self, tuple(sorted(self._prefix(sequence, patch))), order=order_name(order))

    def _prefix(self, sequence: tuple[int, ...], patch: int) -> tuple[int, ...]:
        if patch == 0:
            return ()
        if patch == self.max_patch:
            return sequence
        left = patch
        for length, layer in enumerate(sequence):
            left -= len(self.blocks[layer]) > 1
            if left < 0:
                return sequence[:length]
        raise AssertionError("unreachable: patch < max_patch leaves a longer block unpatched")

    def members(self, order: Order = LAST_TO_FIRST) -> tuple[Member, ...]:
        """Every member along an order, the student first and the teacher last.

        A student that keeps every layer spans no sizes: it is the only member then.
        """
        return tuple(self.member(patch=k, order=order) for k in range(self.max_patch + 1))


@dataclass(frozen=True)
class Member:
    """One model of the family: the student with a set of its layers patched.

    Two members with the same patched layers are equal, whichever order led to them.

    Args:
        layers: The plan the family was cut by.
        patched: Student layers replaced by their blocks, increasing.
        order: The name of the order the member was chosen along, or None for a free set of blocks.

    Raises:
        LayerMapError: `patched` repeats a layer or names one the student does not have.
    """

    layers: LayerMap
    patched: tuple[int, ...]
    order: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        count = self.layers.num_student_layers
        if list(self.patched) != sorted(set(self.patched)):
            raise LayerMapError(f"blocks {list(self.patched)} repeat a student layer")
        bad = [i for i in self.patched if not 0 <= i < count]
        if bad:
            raise LayerMapError(
                f"there is no student layer {bad[0]}", fix=f"give layers from 0 to {count - 1}"
            )

    @cached_property
    def sources(self) -> tuple[tuple[Owner, int], ...]:
        """For each layer of the member, whose layer it is and its index there."""
        patched = set(self.patched)
        result: list[tuple[Owner, int]] = []
        for i, block in enumerate(self.layers.blocks):
            if i in patched:
                result.extend(("teacher", t) for t in block)
            else:
                result.append(("student", i))
        return tuple(result)

    @cached_property
    def teacher_layers(self) -> tuple[int, ...]:
        """For each layer of the member, the teacher layer it is or was cut from."""
        kept = self.layers.kept
        return tuple(i if owner == "teacher" else kept[i] for owner, i in self.sources)

    @property
    def num_layers(self) -> int:
        """The number of layers of the member."""
        return len(self.sources)

    @property
    def patch(self) -> int:
        """k: the number of patched blocks of more than one layer."""
        return sum(len(self.layers.blocks[i]) > 1 for i in self.patched)

    @property
    def embedding(self) -> Owner:
        """Whose embedding the member has: that of the owner of its first layer."""
        return self.sources[0][0]

    @property
    def head(self) -> Owner:
        """Whose final norm and head the member has: that of the owner of its last layer."""
        return self.sources[-1][0]


def order_name(order: Order) -> str:
    """A short name of an order for tables and results: the given name, or the list itself."""
    return str(order) if isinstance(order, str | Path) else json.dumps(list(order))


def _integers(values: Iterable[int], name: str, where: object = None) -> tuple[int, ...]:
    if not isinstance(values, Iterable):
        raise LayerMapError(
            f"{name} is {values!r}", where=where, fix="give a list of whole numbers"
        )
    result = tuple(values)
    for value in result:
        # bool is an int, and a float such as 2.0 in a JSON list is most likely a mistake.
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise LayerMapError(f"{name} contains {value!r}", where=where, fix="give whole numbers")
    return tuple(int(value) for value in result)


def _check_kept(kept: tuple[int, ...], num_layers: int) -> None:
    if num_layers < 1:
        raise LayerMapError(f"num_layers is {num_layers}", fix="give at least 1")
    if not kept:
        raise LayerMapError("the list of kept layers is empty", fix="keep at least layer 0")
    if kept[0] < 0 or kept[-1] >= num_layers:
        bad = kept[0] if kept[0] < 0 else kept[-1]
        raise LayerMapError(
            f"kept layer {bad} is out of range",
            fix=f"the teacher has layers 0 to {num_layers - 1}",
        )
    for left, right in pairwise(kept):
        if left == right:
            raise LayerMapError(f"kept layer {left} is repeated", fix="name each layer once")
        if left > right:
            raise LayerMapError(
                f"kept layers are not sorted: {left} before {right}",
                fix="list them increasing",
            )
    if kept[0] != 0:
        raise LayerMapError(
            f"kept layers start at {kept[0]}",
            fix="keep layer 0, the first block begins there",
        )


def _read_order(path: Path) -> list[int]:
    try:
        order = json.loads(path.read_text())
    except FileNotFoundError:
        raise LayerMapError(
            "is no known order and no file",
            where=path,
            fix=f"use {LAST_TO_FIRST}, {FIRST_TO_LAST} or a JSON list of student layers in a file",
        ) from None
    except (OSError, ValueError) as error:
        raise LayerMapError(f"cannot be read as a JSON list ({error})", where=path) from None
    if not isinstance(order, list):
        raise LayerMapError("is not a JSON list of student layers", where=path)
    return order
