"""Which member for a budget: the memory each needs, and the command that builds it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluate.results import FAMILY, Row
from ..layers import FIRST_TO_LAST, LAST_TO_FIRST
from ..sizing import DEFAULT_CONTEXT, Cache, Memory
from .lines import Key
from .sources import ResultSet

# Tokens. Few models take longer texts.
_LONGEST = 1 << 17


@dataclass(frozen=True)
class Candidate:
    """A measured member of a family.

    Args:
        member: Its patched layers.
        patch: k.
        layers: The number of its layers.
        parameters: Numbers stored.
        weights: Bytes of the weights, as they are built where that is known, else as measured.
        cache: Its KV cache for one text, by how many tokens are kept; none where not known.
        command: What builds it.
    """

    member: tuple[int, ...]
    patch: int
    layers: int
    parameters: int
    weights: int
    cache: tuple[Cache, ...]
    command: str

    def memory(self, context: int) -> Memory:
        """What it needs to run with so many tokens of text."""
        return Memory.of(self.weights, self.cache, context)


@dataclass(frozen=True)
class Choices:
    """The members of one set along one order, to choose from.

    Args:
        key: The line of the charts that they are.
        candidates: By size.
        context: Tokens that memory is stated for by default; None where no KV cache is known.
        everything: How many members the order has from student to teacher, or None if unknown.
    """

    key: Key
    candidates: tuple[Candidate, ...]
    context: int | None
    everything: int | None

    @property
    def contexts(self) -> tuple[int, ...]:
        """The text lengths to choose from: powers of two up to the model's, and the default."""
        if self.context is None:
            return (1,)
        most = _LONGEST if self.context >= DEFAULT_CONTEXT else self.context
        least = max(1, min(512, self.context // 8))
        powers = {1 << k for k in range(_LONGEST.bit_length()) if least <= 1 << k <= most}
        return tuple(sorted({self.context, *powers}))


def choices(sets: Sequence[ResultSet]) -> list[Choices]:
    """The families to choose from: one for each set and order, the default order first."""
    return [_choices(each, order, teacher) for each in sets for order, teacher in _orders_of(each)]


def _orders_of(each: ResultSet) -> list[tuple[str | None, str]]:
    rows = [row for row in each.rows if row.series == FAMILY]
    found = list(dict.fromkeys((row.order, row.teacher) for row in rows))
    default = None if each.provenance is None else each.provenance.order
    return sorted(found, key=lambda pair: pair[0] != default)


def _choices(each: ResultSet, order: str | None, teacher: str) -> Choices:
    mine = [
        row for row in each.rows if (row.series, row.order, row.teacher) == (FAMILY, order, teacher)
    ]
    by_member = {row.member: row for row in mine}
    ordered = sorted(by_member.values(), key=lambda row: (row.num_layers, row.parameters))
    candidates = tuple(_candidate(each, row) for row in ordered)
    known = each.provenance is not None and all(one.cache for one in candidates)
    return Choices(
        key=(each.name, FAMILY, order, teacher),
        candidates=candidates,
        context=each.provenance.context if each.provenance is not None and known else None,
        everything=_family_size(each) if order is not None else None,
    )


def _candidate(each: ResultSet, row: Row) -> Candidate:
    built = each.built(row.member)
    return Candidate(
        member=row.member,
        patch=row.patch,
        layers=row.num_layers,
        parameters=row.parameters if built is None else built.parameters,
        weights=row.bytes if built is None else built.bytes,
        cache=tuple(
            Cache(part.window, part.bytes_per_token) for part in (built and built.cache) or ()
        ),
        command=_command(each, row),
    )


def _command(each: ResultSet, row: Row) -> str:
    known = each.provenance
    sources = ("TEACHER", "STUDENT")
    name, keep = "member", []
    if known is not None:
        sources, name = (known.teacher.reference, known.student.reference), known.name
        keep = ["--keep", _listed(known.kept_layers)] if known.keep_given else []
    words = ["boomerang", "build", *sources, f"{name}-{row.num_layers}L", *keep, *_choice(row)]
    return shlex.join(words)


def _choice(row: Row) -> list[str]:
    if not row.member:
        return ["--patch", "0"]
    if row.order in (LAST_TO_FIRST, FIRST_TO_LAST):
        return ["--patch", str(row.patch), "--order", row.order]
    # An order in a file may have changed since; the patched layers are what was measured.
    return ["--blocks", _listed(row.member)]


def _listed(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))


def _family_size(each: ResultSet) -> int | None:
    if each.provenance is None:
        return None
    ends = (*each.provenance.kept_layers[1:], each.provenance.num_teacher_layers)
    pairs = zip(each.provenance.kept_layers, ends, strict=True)
    return 1 + sum(end - start > 1 for start, end in pairs)
