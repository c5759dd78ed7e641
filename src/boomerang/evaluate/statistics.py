"""Values with standard errors, and differences between values measured on the same items."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value computed from items, and what each item contributes to its error.

    Attributes:
        value: The value.
        influence: Shape (items,), in the unit of the value: to first order how far the value would
            move if the item's weight grew by one item. Sums to zero.
    """

    value: float
    influence: Floats = field(repr=False)

    @property
    def items(self) -> int:
        """The number of items."""
        return len(self.influence)

    @property
    def stderr(self) -> float | None:
        """The standard error over items taken as independent; None for a single item.

        By linearisation (the delta method): sqrt(n / (n-1) * sum of squared influences).
        """
        n = self.items
        if n < 2:
            return None
        return float(np.sqrt(n / (n - 1) * np.sum(self.influence**2)))


def ratio(numerator: Floats, denominator: Floats) -> Estimate:
    """The ratio of two sums over items.

    Args:
        numerator: Shape (items,).
        denominator: Shape (items,), with a positive sum.

    Returns:
        The estimate; its influences are those of the ratio estimator,
        (numerator - value * denominator) / sum(denominator).
    """
    total = denominator.sum()
    value = float(numerator.sum() / total)
    return Estimate(value, (numerator - value * denominator) / total)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate in another unit."""
    return Estimate(estimate.value * factor, estimate.influence * factor)


def exponential(estimate: Estimate) -> Estimate:
    """The exponential of an estimate, its errors carried over by the delta method."""
    value = math.exp(estimate.value)
    return Estimate(value, estimate.influence * value)


def paired_difference(a: Estimate, b: Estimate) -> tuple[float, float | None]:
    """The difference a - b of two values measured on the same items, and its standard error.

    What makes an item hard for both cancels, so the error is far smaller than that of two
    independent measurements.

    Args:
        a: A value.
        b: The same metric of another model, on the same items in the same order.

    Returns:
        The difference and its standard error (None for a single item).

    Raises:
        ValueError: The two rest on different numbers of items.
    """
    if a.items != b.items:
        raise ValueError(f"not measured on the same items: {a.items} and {b.items}")
    difference = Estimate(a.value - b.value, a.influence - b.influence)
    return difference.value, difference.stderr
