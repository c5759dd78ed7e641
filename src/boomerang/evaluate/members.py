"""Choosing the members of a family that is in memory, and checking what they give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import ResultsError
from ..family import Family
from ..layers import Member, Order
from .statistics import Floats


def choose_members(
    family: Family, members: Iterable[int | Member] | None, order: Order | None
) -> tuple[Member, ...]:
    """The members meant by values of patch along an order, by members, or by None for all.

    Each is there once, however often it is named.

    Raises:
        LayerMapError: No such member or order.
    """
    if members is None:
        return family.layers.members(family.order if order is None else order)
    return tuple(dict.fromkeys(family.member(member, order) for member in members))


def size_in_memory(family: Family, member: Member) -> tuple[int, int]:
    """A member's parameters and their bytes, a tied head counted once."""
    parameters = list(family.model(member).parameters())
    count = sum(parameter.numel() for parameter in parameters)
    return count, sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def check_finite(members: Sequence[Member], log_likelihood: Floats) -> None:
    """Refuse log-likelihoods, shape (members, n), that are not finite.

    Raises:
        ResultsError: One is not; names the member.
    """
    finite = np.isfinite(log_likelihood).all(axis=1)
    if not finite.all():
        raise ResultsError(
            "the model gives log-likelihoods that are not finite",
            where=f"member {list(members[int(finite.argmin())].patched)}",
            fix="its weights are broken, or its dtype is too narrow (try float32)",
        )
