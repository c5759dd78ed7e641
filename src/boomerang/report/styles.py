"""What tells lines apart: colour, dashes and marker, the same on paper and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["family", "baseline", "external"]


@dataclass(frozen=True)
class Style:
    """How a line is drawn.

    Args:
        light: Its colour on white.
        dark: Its colour on a dark ground, where the palette's deep colours would drown.
        dash: matplotlib's name of its dashes.
        marker: matplotlib's name of its marker.
    """

    light: str
    dark: str
    dash: str
    marker: str

    @property
    def dashes(self) -> str:
        """The dashes as an SVG `stroke-dasharray`."""
        return {"-": "none", "--": "7 4", ":": "2 4", "-.": "8 3 2 3"}[self.dash]

    @property
    def outline(self) -> str:
        """The marker as an SVG path around the origin."""
        return marker_path(self.marker)


# Okabe and Ito's palette, which the colour-blind can tell apart; line and marker differ as well.
_BLUE, _GREEN, _SKY = ("#0072B2", "#4DA9E4"), ("#009E73", "#2FC39A"), ("#56B4E9", "#A5D8F7")
_RED, _PINK, _ORANGE = ("#D55E00", "#F58A47"), ("#CC79A7", "#E29CC3"), ("#E69F00", "#F2BC48")
_BLACK, _GREY = ("#222222", "#E8E8E8"), ("#777777", "#A8A8A8")

_POOLS: dict[Kind, list[Style]] = {
    "family": [
        Style(*_BLUE, "-", "o"),
        Style(*_GREEN, "-", "D"),
        Style(*_BLACK, "-", "v"),
        Style(*_SKY, "-", "s"),
    ],
    "baseline": [
        Style(*_RED, "--", "s"),
        Style(*_PINK, ":", "^"),
        Style(*_ORANGE, "-.", "P"),
        Style(*_GREY, "--", "h"),
        Style(*_BLACK, ":", "X"),
        Style(*_SKY, "-.", "v"),
    ],
    "external": [Style(*_BLACK, "-", "X"), Style(*_GREY, "-", "P"), Style(*_GREEN, "-", "h")],
}
# Baselines of the paper's first figure look alike in every report.
_FIXED = {"naive": 0, "random": 1}


def styles(lines: Sequence[tuple[Kind, str]]) -> list[Style]:
    """A style for each line.

    Args:
        lines: Their kinds and series.
    """
    used: dict[Kind, list[int]] = {"family": [], "baseline": [], "external": []}
    reserved = {_FIXED[series] for kind, series in lines if kind == "baseline" and series in _FIXED}
    result = []
    for kind, series in lines:
        pool, taken = _POOLS[kind], used[kind]
        index = _FIXED.get(series) if kind == "baseline" else None
        if index is None or index in taken:
            # Those that are spoken for come last, and then the pool starts again.
            free = [i for i in range(len(pool)) if i not in taken]
            kept = reserved if kind == "baseline" else set()
            open_to_all = [i for i in free if i not in kept]
            index = (open_to_all or free or [len(taken) % len(pool)])[0]
        taken.append(index)
        result.append(pool[index])
    return result


def marker_path(marker: str, radius: float = 4.2) -> str:
    """A marker as an SVG path around the origin.

    Args:
        marker: matplotlib's name of it.
        radius: Of the circle it is about as large as.
    """
    if marker == "o":
        r = f"{radius:g}"
        return f"M-{r},0a{r},{r} 0 1,0 {2 * radius:g},0a{r},{r} 0 1,0 -{2 * radius:g},0z"
    if marker in ("P", "X"):
        return _closed(_turned(_plus(), 45 if marker == "X" else 0), radius * 1.25)
    corners, turn, grow = {
        "s": (4, 45.0, 1.25),
        "D": (4, 0.0, 1.25),
        "^": (3, 0.0, 1.3),
        "v": (3, 180.0, 1.3),
        "h": (6, 0.0, 1.15),
        "*": (5, 0.0, 2.1),
    }[marker]
    points = _turned([_at(360 * i / corners) for i in range(corners)], turn)
    if marker == "*":
        inner = [_at(360 * (i + 0.5) / corners, 0.42) for i in range(corners)]
        points = [point for pair in zip(points, inner, strict=True) for point in pair]
    return _closed(points, radius * grow)


_Place = tuple[float, float]


def _at(degrees: float, distance: float = 1.0) -> _Place:
    """From the top, clockwise, with the vertical axis down."""
    angle = math.radians(degrees)
    return distance * math.sin(angle), -distance * math.cos(angle)


_ARM = 0.36
# A quarter of the cross, turned three times.
_CORNER = [(_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM)]


def _turned(points: Sequence[_Place], degrees: float) -> list[_Place]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(cos * x - sin * y, sin * x + cos * y) for x, y in points]


def _closed(points: Sequence[_Place], radius: float) -> str:
    return "M" + "L".join(f"{radius * x:.1f},{radius * y:.1f}" for x, y in points) + "z"


def _plus() -> list[_Place]:
    return [point for turn in range(4) for point in _turned(_CORNER, 90 * turn)]
