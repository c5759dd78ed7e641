"""Axes: where the marks are, how numbers are spelled, and when a logarithm is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# From this ratio of the largest value to the smallest on, a linear axis hides what matters below.
LOG_FROM = 2.5

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

# Numbers of so many digits do not fit beside an axis.
_WIDE = 1e5

# Marks that an axis needs to be read.
_FEWEST = 3


@dataclass(frozen=True)
class Scale:
    """From values to places between 0 and 1.

    Args:
        low: The value at 0.
        high: The value at 1, greater than `low`.
        log: Whether the place follows the value's logarithm; then `low` is above zero.
        ticks: Values to mark, within the limits.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """The place of a value."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def needs_log(values: Sequence[float], lower_is_better: bool | None) -> bool:
    """Whether values span so much that a linear axis hides what matters.

    Only of metrics where lower is better: those have no upper end, and bad models explode.
    """
    low, high = min(values), max(values)
    return lower_is_better is True and low > 0 and high / low >= LOG_FROM


def linear_scale(low: float, high: float, ticks: int, *, below: float, above: float) -> Scale:
    """A linear scale with margins, as shares of the span, and about so many round marks."""
    span = (high - low) or abs(high) or 1.0
    low, high = low - below * span, high + above * span
    marks: tuple[float, ...] = ()
    for step in _round_steps((high - low) / ticks):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        marks = tuple(_clean(i * step) for i in range(first, last + 1))
        if len(marks) >= _FEWEST:
            break
    return Scale(low, high, False, marks)


def whole_scale(low: int, high: int, ticks: int, *, below: float, above: float) -> Scale:
    """A linear scale for whole numbers, marked at whole numbers alone."""
    scale = linear_scale(low, high, ticks, below=below, above=above)
    whole = tuple(tick for tick in scale.ticks if tick == int(tick))
    return Scale(scale.low, scale.high, False, whole)


def log_scale(low: float, high: float, *, below: float, above: float) -> Scale:
    """A logarithmic scale; the fewer decades, the more marks in each."""
    span = high / low
    subs = log_marks(span)
    low, high = low / span**below, high * span**above
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [_clean(sub * 10.0**decade) for decade in decades for sub in subs]
    return Scale(low, high, True, tuple(mark for mark in marks if low <= mark <= high))


def log_marks(span: float) -> tuple[float, ...]:
    """What to mark in each decade: few decades need more than 1, 10, 100 to read a value off."""
    if span < 10:
        return (1, 1.5, 2, 3, 4, 5, 6, 8)
    return (1, 2, 5) if span < 1000 else (1,)


def count_unit(largest: int) -> tuple[float, str]:
    """The unit that a number of parameters is read in, and its name."""
    return (1e9, "billions") if largest >= 1e9 else (1e6, "millions")


def bytes_unit(largest: int) -> tuple[float, str]:
    """The unit that a number of bytes is read in, and its name."""
    for power, name in ((3, "GiB"), (2, "MiB")):
        if largest >= 1024**power:
            return float(1024**power), name
    return 1024.0, "KiB"


def show_value(value: float) -> str:
    """A measured value with three or four digits that matter."""
    size = abs(value)
    if size >= 100_000:
        return f"{value:.2e}"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:,.{digits}f}"


def show_with_error(value: float, stderr: float | None, *, sign: bool = False) -> str:
    """A value and its standard error, both with the digits of the value."""
    text = show_value(value)
    text = f"+{text}" if sign and value >= 0 else text
    if stderr is None:
        return text
    digits = len(text.partition(".")[2]) if "e" not in text else 0
    return f"{text} ± {stderr:,.{digits}f}" if digits else f"{text} ± {show_value(stderr)}"


def show_ticks(values: Sequence[float]) -> list[str]:
    """Labels of an axis' marks: as many decimals as one of them needs, large ones in powers."""
    if any(abs(value) >= _WIDE for value in values):
        return [_in_powers(value) for value in values]
    digits = max((len(f"{value:.6g}".partition(".")[2]) for value in values), default=0)
    return [f"{value:.{digits}f}" for value in values]


def _in_powers(value: float) -> str:
    """All digits of a number, such as 1.25e6; small ones as they are."""
    if abs(value) < 1000:
        return f"{value:.6g}"
    digits, _, power = f"{value:.5e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def _round_steps(step: float) -> list[float]:
    """The next round number from a step up, and those below it, the largest first."""
    power = 10.0 ** math.floor(math.log10(step))
    steps = [factor * part for part in (power / 10, power) for factor in _STEPS]
    index = next(i for i, each in enumerate(steps) if each >= step * (1 - 1e-9))
    return steps[index::-1]


def _clean(value: float) -> float:
    """Without what binary fractions leave behind, such as 0.30000000000000004."""
    return float(f"{value:.10g}")
