"""The axes of a chart on the page: where sizes and values are, in each unit of size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .charts import Chart
from .lines import Point
from .metrics import lower_is_better
from .scale import (
    Scale,
    bytes_unit,
    count_unit,
    linear_scale,
    log_scale,
    needs_log,
    whole_scale,
)

UNITS = ("parameters", "bytes", "layers")

# Where the name of an end stands, it needs room: as shares of the span of values.
_ROOM, _NO_ROOM = 0.2, 0.07
_MARGINS = {"below": 0.09, "above": 0.08}


@dataclass(frozen=True)
class Frame:
    """The size of a drawing in its own units, which are pixels where it is shown full size."""

    width: int
    height: int
    left: int = 50
    right: int = 18
    top: int = 30
    bottom: int = 46

    def x(self, place: float) -> float:
        """From a place between 0 and 1."""
        return round(self.left + place * (self.width - self.left - self.right), 1)

    def y(self, place: float) -> float:
        """From a place between 0 and 1, from below."""
        return round(self.height - self.bottom - place * (self.height - self.top - self.bottom), 1)


WIDE = Frame(760, 500)
NARROW = Frame(380, 290)


@dataclass(frozen=True)
class Sizes:
    """The horizontal axis for one unit of size, the same in every chart of a report.

    Args:
        unit: One of `UNITS`.
        title: What the axis is called.
        divisor: What sizes are divided by before they are shown.
        scale: From sizes, divided, to places.
    """

    unit: str
    title: str
    divisor: float
    scale: Scale

    def place(self, point: Point) -> float | None:
        """Where a point is, or None where its size is not known in this unit."""
        size = size_of(point, self.unit)
        return None if size is None else self.scale(size / self.divisor)


def size_of(point: Point, unit: str) -> int | None:
    """The size of a point in one of `UNITS`."""
    size: int | None = getattr(point, unit)
    return size


def size_axes(charts: Iterable[Chart], ticks: int) -> tuple[Sizes, ...]:
    """The horizontal axes that hold every point of the charts.

    Args:
        charts: At least one.
        ticks: About so many marks.
    """
    points = [point for chart in charts for line in chart.lines for point in line.points]
    return tuple(_size_axis(unit, points, ticks) for unit in UNITS)


def _size_axis(unit: str, points: Sequence[Point], ticks: int) -> Sizes:
    sizes = [size for point in points if (size := size_of(point, unit)) is not None]
    low, high = min(sizes), max(sizes)
    if unit == "layers":
        return Sizes(unit, "Layers", 1.0, whole_scale(low, high, ticks, **_MARGINS))
    divisor, name = count_unit(high) if unit == "parameters" else bytes_unit(high)
    title = "Parameters" if unit == "parameters" else "Weights as measured"
    scale = linear_scale(low / divisor, high / divisor, ticks, **_MARGINS)
    return Sizes(unit, f"{title} ({name})", divisor, scale)


def value_scale(chart: Chart) -> Scale:
    """The vertical axis of a chart: all values and errors, with room for names of the ends."""
    points = [point for line in chart.lines for point in line.points]
    values = [point.value for point in points]
    lower = lower_is_better(chart.metric)
    below, above = (_NO_ROOM, _ROOM) if lower is False else (_ROOM, _NO_ROOM)
    low = min(point.value - (point.stderr or 0.0) for point in points)
    high = max(point.value + (point.stderr or 0.0) for point in points)
    if needs_log(values, lower) and low > 0:
        return log_scale(low, high, below=below, above=above)
    return linear_scale(low, high, 5, below=below, above=above)
