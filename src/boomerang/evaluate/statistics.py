"""Values with standard errors, and differences between values measured on the same items."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import ResultsError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value computed from items.

    `influence`, of shape (items,), says in the value's unit how far, to first order, the value
    moves if an item is counted once more. It sums to zero.
    """

    value: float
    influence: Floats = field(repr=False)

    @property
    def items(self) -> int:
        """The number of items."""
        return len(self.influence)

    @property
    def stderr(self) -> float | None:
        """The standard error over independent items; None for a single item.

        By the delta method: sqrt(n / (n-1) * sum of squared influences).
        """
        n = self.items
        return float(np.sqrt(n / (n - 1) * np.sum(self.influence**2))) if n > 1 else None

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit."""
        return Estimate(self.value * factor, self.influence * factor)

    def exp(self) -> Estimate:
        """The exponential, its error by the delta method; raises `ResultsError` on overflow."""
        try:
            value = math.exp(self.value)
        except OverflowError:
            what = f"a mean of {self.value:.4g} nats has no finite perplexity"
            raise ResultsError(what, fix="leave this member out") from None
        return Estimate(value, self.influence * value)


def ratio(numerator: Floats, denominator: Floats) -> Estimate:
    """The ratio of two sums over items, given as arrays of shape (items,)."""
    total = denominator.sum()
    value = float(numerator.sum() / total)
    return Estimate(value, (numerator - value * denominator) / total)


def paired_difference(a: Estimate, b: Estimate) -> tuple[float, float | None]:
    """The difference a - b on the same items in the same order, and its standard error.

    Less than that of independent measurements: what makes an item hard for both cancels.
    """
    if a.items != b.items:
        raise ValueError(f"not measured on the same items: {a.items} and {b.items}")
    difference = Estimate(a.value - b.value, a.influence - b.influence)
    return difference.value, difference.stderr
