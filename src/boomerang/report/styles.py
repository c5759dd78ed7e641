"""How lines differ: colour, dashes and marker, the same on paper and on the page."""

from __future__ import annotations

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


# Okabe and Ito's palette, which colour-blind readers can distinguish; line and marker differ too.
_BLUE, _GREEN, _SKY = ("#0072B2", "#4DA9E4"), ("#009E73", "#2FC39A"), ("#56B4E9", "#A5D8F7")
_RED, _PINK, _ORANGE = ("#D55E00", "#F58A47"), ("#CC79A7", "#E29CC3"), ("#E69F00", "#F2BC48")
_BLACK, _GREY = ("#222222", "#E8E8E8"), ("#777777", "#A8A8A8")

PALETTE = (_BLUE, _GREEN, _SKY, _RED, _PINK, _ORANGE, _BLACK, _GREY)
"""Every colour of a line: on white, and on a dark ground."""

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
            # Reserved styles come last, and then the pool starts again.
            free = [i for i in range(len(pool)) if i not in taken]
            kept = reserved if kind == "baseline" else set()
            open_to_all = [i for i in free if i not in kept]
            index = (open_to_all or free or [len(taken) % len(pool)])[0]
        taken.append(index)
        result.append(pool[index])
    return result
