"""Which member for a budget: the memory each needs, and the command that builds it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluate.results import FAMILY, Row
from ..layers import FIRST_TO_LAST, LAST_TO_FIRST, LayerMap
from ..sizing import DEFAULT_CONTEXT, Cache, Memory
from .series import Key
from .sources import ResultSet

# Tokens. Few models take longer texts.
_LONGEST = 1 << 17


@dataclass(frozen=True)
class Candidate:
    """A measured member of a family, and the command that builds it."""

    row: Row
    parameters: int
    weights: int  # bytes, as they are built where that is known, else as measured
    cache: tuple[Cache, ...]  # for one text, by how many tokens are kept; none where not known
    command: str

    def memory(self, context: int | None) -> Memory:
        """What it needs to run with so many tokens of text; without a context, the weights'."""
        return Memory.of(self.weights, self.cache, context or 1)


@dataclass(frozen=True)
class Choices:
    """The members of one set along one order, to choose from."""

    key: Key  # of their line in the charts
    candidates: tuple[Candidate, ...]  # by size
    context: int | None  # tokens that memory is stated for; None where no KV cache is known
    everything: int | None  # how many members the order has; None if unknown

    @property
    def contexts(self) -> tuple[int, ...]:
        """The text lengths to choose from: powers of two up to the model's, and the default."""
        if self.context is None:
            return (1,)
        most = _LONGEST if self.context >= DEFAULT_CONTEXT else self.context
        least = max(1, min(512, self.context // 8))
        powers = {1 << k for k in range(_LONGEST.bit_length()) if least <= 1 << k <= most}
        return tuple(sorted({self.context, *powers}))

    @property
    def needs(self) -> list[tuple[int, Candidate]]:
        """The bytes each candidate needs for the default context, increasing."""
        found = [(each.memory(self.context).total, each) for each in self.candidates]
        return sorted(found, key=lambda need: need[0])


def choices(sets: Sequence[ResultSet]) -> list[Choices]:
    """The families to choose from: one for each set and order, the default order first."""
    return [one for each in sets for one in _choices(each)]


def _choices(each: ResultSet) -> list[Choices]:
    known = each.provenance
    found: dict[Key, dict[tuple[int, ...], Row]] = {}
    for row in each.rows:
        if row.series == FAMILY:
            key = Key(each.name, FAMILY, row.order, row.teacher)
            found.setdefault(key, {})[row.member] = row
    everything = default = None
    if known is not None:
        everything = LayerMap(known.kept_layers, known.num_teacher_layers).max_patch + 1
        default = known.order
    result = []
    for key, mine in sorted(found.items(), key=lambda item: item[0].order != default):
        rows = sorted(mine.values(), key=lambda row: (row.num_layers, row.parameters))
        members = tuple(_candidate(each, row) for row in rows)
        context = known.context if known and all(one.cache for one in members) else None
        result.append(Choices(key, members, context, everything if key.order else None))
    return result


def _candidate(each: ResultSet, row: Row) -> Candidate:
    known = each.provenance
    for built in known.built if known else ():
        if built.member == row.member:
            size = (built.parameters, built.bytes, built.cache or ())
            return Candidate(row, *size, _command(each, row))
    return Candidate(row, row.parameters, row.bytes, (), _command(each, row))


def _command(each: ResultSet, row: Row) -> str:
    known = each.provenance
    words = ["boomerang", "build", "TEACHER", "STUDENT", f"member-{row.num_layers}L"]
    if known is not None:
        words[2:] = [known.teacher.reference, known.student.reference]
        words.append(f"{known.name}-{row.num_layers}L")
        if known.keep_given:
            words += ["--keep", _listed(known.kept_layers)]
    if not row.member:
        words += ["--patch", "0"]
    elif row.order in (LAST_TO_FIRST, FIRST_TO_LAST):
        words += ["--patch", str(row.patch), "--order", row.order]
    else:
        # An order in a file may have changed since; the patched layers are what was measured.
        words += ["--blocks", _listed(row.member)]
    return shlex.join(words)


def _listed(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))
