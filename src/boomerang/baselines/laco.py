"""LaCo: layers are merged into the one before them, from the top down, without training.

arXiv 2402.11187. The arithmetic of the search; what a plan's model is like is asked of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import LayerMapError
from .combination import Plan, keep, merge

SERIES = "laco"

# Of the authors' notebook for a teacher of 40 layers (laco_llama-13b.ipynb).
_PUBLISHED_DEPTH, _PUBLISHED_MERGE = 40, 7
_THRESHOLD = 0.45


@dataclass(frozen=True)
class Settings:
    """Settings of one search.

    Args:
        merge: Layers that become one; at least 2.
        lowest: The lowest layer that others are merged into.
        highest: The search starts at layer `highest - merge`.
        interval: How far down the search goes after a merge; at least 1.
        threshold: A merge stays if the mean cosine of the final hidden states is above it.

    Raises:
        LayerMapError: A number is out of range.
    """

    merge: int
    highest: int
    lowest: int = 0
    interval: int = 1
    threshold: float = _THRESHOLD

    def __post_init__(self) -> None:
        for name, least in (("merge", 2), ("lowest", 0), ("interval", 1)):
            if getattr(self, name) < least:
                raise LayerMapError(f"{name} is {getattr(self, name)}", fix=f"give {least} or more")

    @classmethod
    def scaled(cls, num_layers: int) -> Settings:
        """The published settings for a teacher of another depth.

        Merging 7 of 40 layers takes 17.5 % of the depth at a time, and neighbouring layers differ
        by more where there are fewer of them: so the share is kept, at least two layers. The range
        (0 to the last layer) and the interval (the very next layer) speak of places, not of a
        share, and the threshold of the whole model: they stay.
        """
        merge = max(2, round(_PUBLISHED_MERGE * num_layers / _PUBLISHED_DEPTH))
        return cls(merge=merge, highest=num_layers - 1)


def collapse(
    num_layers: int, settings: Settings, similarity: Callable[[Plan], float | None]
) -> Iterator[Plan]:
    """Merge from the top down, and keep each merge that leaves the model similar enough.

    Stopping after any of the plans is the same search with a higher `lowest`.

    Args:
        num_layers: Of the teacher.
        settings: The settings.
        similarity: The mean cosine between a plan's final hidden states and the teacher's; None
            where the layers cannot be merged.

    Yields:
        The plan after each merge that was kept.
    """
    plan = keep(range(num_layers))
    at = min(settings.highest, num_layers) - settings.merge
    while at >= settings.lowest:
        count = min(settings.merge - 1, len(plan) - at - 1)
        candidate = merge(plan, at, count) if count > 0 else None
        value = None if candidate is None else similarity(candidate)
        if candidate is None or value is None or not value > settings.threshold:
            at -= 1
            continue
        plan = candidate
        yield plan
        at -= settings.interval
        if at >= len(plan):
            at = len(plan) - 1 - settings.merge
