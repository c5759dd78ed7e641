"""Where names stand beside their points, so that neither points nor other names are covered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["below", "above", "right", "left"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

# Offsets of a text from its point, and how it is anchored there; in pixels.
_OFFSETS: dict[Side, tuple[float, float, str]] = {
    "below": (0, 25, "middle"),
    "above": (0, -15, "middle"),
    "right": (11, 4, "start"),
    "left": (-11, 4, "end"),
}
# Of the page's 12.5 pixel sans serif: an ordinary letter's width, and a line's height.
_LETTER, _HEIGHT = 6.6, 13.0
_POINT = 6.0
_SAME = 60.0


@dataclass(frozen=True)
class Label:
    """A name that wants to stand beside a point.

    Args:
        x: The point's place from the left.
        y: The point's place from the top.
        text: The name.
        sides: Where it may stand, best first.
    """

    x: float
    y: float
    text: str
    sides: tuple[Side, ...]


@dataclass(frozen=True)
class Placed:
    """Where a name stands.

    Args:
        dx: From its point to the right.
        dy: From its point down, to the line the letters stand on.
        anchor: SVG's `text-anchor`.
    """

    dx: float
    dy: float
    anchor: str


def place(
    labels: Sequence[Label], points: Sequence[tuple[float, float]], area: Box
) -> list[Placed | None]:
    """A place for each name, the first served first.

    Args:
        labels: The names.
        points: What should stay visible: places of points, and of lines between them.
        area: What no name leaves if it can be helped.

    Returns:
        For each name its place; None for a name that stands near by already.
    """
    taken: list[tuple[Label, Box]] = []
    result: list[Placed | None] = []
    for label in labels:
        if any(_is_repeated(label, other) for other, _ in taken):
            result.append(None)
            continue
        boxes = [box for _, box in taken]
        side = min(label.sides, key=lambda side: _cost(_box(label, side), boxes, points, area))
        taken.append((label, _box(label, side)))
        result.append(Placed(*_OFFSETS[side]))
    return result


def _is_repeated(label: Label, other: Label) -> bool:
    near = abs(label.x - other.x) < _SAME and abs(label.y - other.y) < _SAME
    return near and label.text == other.text


def _box(label: Label, side: Side) -> Box:
    dx, dy, anchor = _OFFSETS[side]
    length = _LETTER * len(label.text)
    left = label.x + dx - {"start": 0.0, "middle": length / 2, "end": length}[anchor]
    base = label.y + dy
    return (left, base - _HEIGHT + 3, left + length, base + 3)


def _cost(
    box: Box,
    boxes: Sequence[Box],
    points: Sequence[tuple[float, float]],
    area: Box,
) -> float:
    left, top, right, bottom = box
    outside = left < area[0] or top < area[1] or right > area[2] or bottom > area[3]
    covered = sum(
        left - _POINT < x < right + _POINT and top - _POINT < y < bottom + _POINT for x, y in points
    )
    crossed = sum(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        for other in boxes
    )
    return 1000 * outside + 10 * crossed + covered
