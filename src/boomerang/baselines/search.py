"""LaCo at wanted sizes: a search over its settings, and the best plan of each size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ..errors import LayerMapError
from .combination import Plan
from .laco import Settings, collapse

# The published threshold is 0.45. Sizes near the teacher's want higher ones, by which merges that
# cost more are passed over; small sizes need lower ones, and the last keeps every merge there can
# be, so that a size is missed only where no search reaches it.
_THRESHOLDS = (
    0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.45, 0.25, 0.0, -1.0,
)  # fmt: skip
_INTERVALS = (1, 2)
# Where the search starts, as a share of the published highest layer, which is the last.
_STARTS = (1.0, 0.75, 0.5)


@dataclass(frozen=True)
class Found:
    """The best plan of a size.

    Attributes:
        plan: The plan.
        settings: The first settings that led to it.
        loss: Its loss on the calibration text, in nats a token.
        tried: How many plans of this size it is the best of.
    """

    plan: Plan
    settings: Settings
    loss: float
    tried: int


def reasonable(num_layers: int) -> list[Settings]:
    """The settings that are searched over.

    Merges of 2 layers up to the published share of the depth, and of 3 in any case, as merging 2
    merely drops the first of them; the interval of 1 and 2; from the last layer down, from three
    quarters and from half of the depth; and thresholds from 0.99 down.
    """
    published = Settings.scaled(num_layers)
    merges = range(max(3, published.merge), 1, -1)
    return [
        replace(
            published,
            merge=merge,
            interval=interval,
            highest=round(start * published.highest),
            threshold=threshold,
        )
        for merge, interval, start, threshold in product(merges, _INTERVALS, _STARTS, _THRESHOLDS)
    ]


def search(
    num_layers: int,
    sizes: Collection[int],
    similarity: Callable[[Plan], float | None],
    loss: Callable[[Plan], float],
    settings: Sequence[Settings] | None = None,
) -> dict[int, Found]:
    """For each size the plan with the lowest loss on the calibration text.

    Every plan that a search passes counts, as the result of the same search with a higher lowest
    layer.

    Args:
        num_layers: Of the teacher.
        sizes: The wanted numbers of layers.
        similarity: As in `collapse`.
        loss: Of a plan on the calibration text.
        settings: What to search over; by default `reasonable`.

    Raises:
        LayerMapError: A size is no size below the teacher's, or no search reaches it.
    """
    for size in sizes:
        if not 1 <= size < num_layers:
            raise LayerMapError(
                f"{size} of {num_layers} layers cannot be kept", fix=f"give 1 to {num_layers - 1}"
            )
    settings = reasonable(num_layers) if settings is None else settings
    reached: dict[int, dict[Plan, Settings]] = {size: {} for size in sizes}
    for each in settings:
        for plan in _down_to(min(sizes), collapse(num_layers, each, similarity)):
            if len(plan) in reached:
                reached[len(plan)].setdefault(plan, each)
    return {size: _best(size, plans, loss) for size, plans in reached.items()}


def _down_to(smallest: int, plans: Iterable[Plan]) -> Iterable[Plan]:
    for plan in plans:
        yield plan
        if len(plan) <= smallest:
            return


def _best(size: int, plans: dict[Plan, Settings], loss: Callable[[Plan], float]) -> Found:
    if not plans:
        raise LayerMapError(
            f"no settings lead to {size} layers", where="laco", fix="give a larger size"
        )
    losses = {plan: loss(plan) for plan in plans}
    plan = min(losses, key=losses.__getitem__)
    return Found(plan, plans[plan], losses[plan], len(plans))
