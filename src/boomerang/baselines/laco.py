"""LaCo: layers are merged into the one before them, from the top down, without training.

arXiv 2402.11187. For each size the settings are searched that do best on the calibration text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LayerMapError
from ..evaluate.results import Row
from ..models.parts import layer_stack
from . import check_size
from .bench import Standalone
from .pruning import Combination, Plan, PlanScores, keep, run_pruner

if TYPE_CHECKING:
    from .bench import Bench

SERIES = "laco"

# Of the authors' notebook for a teacher of 40 layers (laco_llama-13b.ipynb).
_PUBLISHED_DEPTH, _PUBLISHED_MERGE = 40, 7
_THRESHOLD = 0.45
# Sizes near the teacher's want higher thresholds, which skip merges that cost more; small sizes
# need lower ones. The last keeps every merge, so that a size is missed only where no search
# reaches it.
_THRESHOLDS = (
    0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.45, 0.25, 0.0, -1.0,
)  # fmt: skip
_INTERVALS = (1, 2)
# Where the search starts, as a share of the published highest layer, which is the last.
_STARTS = (1.0, 0.75, 0.5)


def run(bench: Bench, results: str | Path, **options: Any) -> list[Row]:
    """Measure LaCo; arguments and errors as in `pruning.run_pruner`."""
    return run_pruner(models, bench, Path(results), **options)


def models(scores: PlanScores, sizes: Sequence[int]) -> list[Standalone]:
    """LaCo at wanted sizes: of all settings' plans the one with the lowest calibration loss.

    Raises:
        LayerMapError: A size is no size below the teacher's, or cannot be reached.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    depth = len(layer_stack(scores.teacher))
    return [
        scores.model(
            SERIES,
            best.plan,
            {"settings": asdict(best.settings), "calibration_loss": best.loss, "of": best.tried},
        )
        for best in search(depth, sizes, scores.similarity, scores.loss).values()
    ]


@dataclass(frozen=True)
class Settings:
    """Settings of one search.

    Args:
        merge: Layers that become one; at least 2.
        lowest: The lowest layer that others are merged into.
        highest: The search starts at layer `highest - merge`.
        interval: How far down the search goes after a merge; at least 1.
        threshold: A merge stays if the mean cosine of the final hidden states is above it.
    """

    merge: int
    highest: int
    lowest: int = 0
    interval: int = 1
    threshold: float = _THRESHOLD

    @classmethod
    def scaled(cls, num_layers: int) -> Settings:
        """The published settings for a teacher of another depth.

        Merging 7 of 40 layers takes 17.5 % of the depth at a time, and neighbouring layers differ
        by more where there are fewer: so the share is kept, at least two layers. The range, the
        interval and the threshold stay.
        """
        merge = max(2, round(_PUBLISHED_MERGE * num_layers / _PUBLISHED_DEPTH))
        return cls(merge=merge, highest=num_layers - 1)


def reasonable(num_layers: int) -> list[Settings]:
    """The settings that are searched over.

    Merges of 2 layers up to the published share of the depth, and of 3 in any case, because merging
    2 only drops the first of them; both intervals; from the last layer down, from three quarters
    and from half of the depth; and all thresholds.
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


def merge(plan: Plan, at: int, count: int) -> Plan:
    """Merge the `count` layers after a layer into it.

    θ*_l = θ_l + Σ_{k=1..m} (θ_{l+k} - θ_l), then layers l+1 ... l+m go (section 2.2).

    Args:
        plan: A model, whose layers may be merged ones already.
        at: l.
        count: m, at least 1 and at most the number of layers after l.
    """
    target, merged = plan[at], plan[at + 1 : at + 1 + count]
    coefficients: dict[int, int] = {}
    for combination, factor in [(target, 1 - count), *((layer, 1) for layer in merged)]:
        for layer, coefficient in combination.terms:
            coefficients[layer] = coefficients.get(layer, 0) + factor * coefficient
    terms = tuple(sorted((layer, c) for layer, c in coefficients.items() if c))
    return (*plan[:at], Combination(target.base, terms), *plan[at + 1 + count :])


def collapse(
    num_layers: int, settings: Settings, similarity: Callable[[Plan], float | None]
) -> Iterator[Plan]:
    """Merge from the top down; yield the plan after each merge that leaves it similar enough.

    Stopping after any of the plans is the same search with a higher `lowest`.

    Args:
        num_layers: The teacher's.
        settings: The settings.
        similarity: As `PlanScores.similarity`.
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


def search(
    num_layers: int,
    sizes: Collection[int],
    similarity: Callable[[Plan], float | None],
    loss: Callable[[Plan], float],
) -> dict[int, Found]:
    """For each size the plan with the lowest calibration loss, over all `reasonable` settings.

    Raises:
        LayerMapError: A size is no size below the teacher's, or no search reaches it.
    """
    for size in sizes:
        check_size(size, num_layers)
    reached: dict[int, dict[Plan, Settings]] = {size: {} for size in sizes}
    for each in reasonable(num_layers):
        for plan in collapse(num_layers, each, similarity):
            if len(plan) in reached:
                reached[len(plan)].setdefault(plan, each)
            if len(plan) <= min(sizes):
                break
    found: dict[int, Found] = {}
    for size, plans in reached.items():
        if not plans:
            raise LayerMapError(
                f"no settings lead to {size} layers", where="laco", fix="give a larger size"
            )
        losses = {plan: loss(plan) for plan in plans}
        best = min(losses, key=losses.__getitem__)
        found[size] = Found(best, plans[best], losses[best], len(plans))
    return found
