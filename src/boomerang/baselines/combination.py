"""Models of fewer layers as integer combinations of a teacher's layers: plain arithmetic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Combination:
    """A layer whose weights are a combination of the teacher's layers.

    Args:
        base: The teacher layer it stands in the place of; decides on all that is no weight.
        terms: Pairs (teacher layer, coefficient), by layer, no coefficient being 0.
    """

    base: int
    terms: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layer: int) -> Combination:
        """The teacher layer itself."""
        return cls(layer, ((layer, 1),))


Plan = tuple[Combination, ...]
"""The layers of a model, their bases increasing."""


def keep(layers: Iterable[int]) -> Plan:
    """The model of some of the teacher's layers, as they are."""
    return tuple(Combination.of(layer) for layer in sorted(layers))


def merge(plan: Plan, at: int, count: int) -> Plan:
    """Merge the `count` layers after a layer into it.

    θ*_l = θ_l + Σ_{k=1..m} (θ_{l+k} - θ_l), then layers l+1 ... l+m go (LaCo, arXiv 2402.11187,
    section 2.2).

    Args:
        plan: A model, whose layers may be merged ones already.
        at: l, its layer that the others are merged into.
        count: m, at least 1 and no more than there are layers after l.
    """
    target, merged = plan[at], plan[at + 1 : at + 1 + count]
    coefficients: dict[int, int] = {}
    for combination, factor in [(target, 1 - count), *((layer, 1) for layer in merged)]:
        for layer, coefficient in combination.terms:
            coefficients[layer] = coefficients.get(layer, 0) + factor * coefficient
    terms = tuple(sorted((layer, c) for layer, c in coefficients.items() if c))
    return (*plan[:at], Combination(target.base, terms), *plan[at + 1 + count :])


def describe(plan: Plan) -> list[list[object]]:
    """A plan as JSON values: for each layer its base and its terms."""
    return [[layer.base, [list(term) for term in layer.terms]] for layer in plan]


def model_hash(teacher_hash: str, method: str, what: object) -> str:
    """What stands for a model that is made from a teacher where a content hash would.

    Args:
        teacher_hash: The teacher's content hash.
        method: How it is made.
        what: All that tells it from others so made; its `repr` is hashed.
    """
    return hashlib.sha256(f"{teacher_hash} {method} {what!r}".encode()).hexdigest()[:16]
