"""Advice that follows from measurements alone: which layers to keep, from which end to patch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..layers import LayerMap

# A layer stands out in the reason where it changes the state so many times the median.
_STANDS_OUT = 2.0


@dataclass(frozen=True)
class Advice:
    """What to do, and why.

    Attributes:
        choice: Kept layers, or the name of an order.
        reason: One sentence.
    """

    choice: tuple[int, ...] | str
    reason: str

    def __str__(self) -> str:
        choice = self.choice if isinstance(self.choice, str) else _spell(self.choice, ",")
        return f"{choice}: {self.reason}"


def advise_keep(cosine: Sequence[Sequence[float]], compared: LayerMap) -> Advice:
    """The layers to keep.

    A student layer starts as the first layer of its block and has to end where the whole block
    does. So of all ways to cut the teacher into as many blocks as a plan has, none longer than its
    longest, that one is taken for which 1 - cos between the state after a block's first layer and
    the state after the block is the least in sum.

    Args:
        cosine: Mean cosine of the teacher's states, (N+1) x (N+1); state 0 is the embedding output,
            state i that after layer i-1.
        compared: The plan, such as the student's or `LayerMap.every`.
    """
    num_layers = compared.num_layers
    longest = max(len(block) for block in compared.blocks)
    kept = _cheapest(cosine, compared.num_student_layers, longest)
    best, given = (_cost(cosine, LayerMap(k, num_layers)) for k in (kept, compared.kept))
    reason = (
        f"of all ways to keep {len(kept)} of {num_layers} layers in blocks of at most {longest}, "
        f"the pruned layers of this one change the state least (1 - cos sums to {best:.3f}"
    )
    if kept != compared.kept:
        reason += f", for {_spell(compared.kept)} to {given:.3f}"
    return Advice(kept, f"{reason})" + _outstanding(cosine, kept))


def advise_order(
    kl: Mapping[str, Sequence[float]], alone: Sequence[float], student: float
) -> Advice:
    """The end to patch from: the order whose members are nearer to the teacher on average.

    Args:
        kl: For each order KL(teacher‖member) of members of the same sizes, in nats a token.
        alone: For each student layer the KL of the member with that layer patched alone.
        student: The KL of the student.
    """
    means = {order: statistics.fmean(values) for order, values in kl.items()}
    best = min(means, key=means.__getitem__)
    listed = ", ".join(f"{value:.4f} nats {order}" for order, value in means.items())
    return Advice(
        best,
        f"over members of the same sizes KL to the teacher averages {listed}; of the student's "
        f"{student:.4f}, patching its first layer alone makes {alone[0]:.4f} and its last alone "
        f"{alone[-1]:.4f}",
    )


def _cheapest(cosine: Sequence[Sequence[float]], count: int, longest: int) -> tuple[int, ...]:
    """The block starts of the cheapest cut into `count` blocks; of equals the longer last ones."""
    num_layers = len(cosine) - 1
    # best[end]: the cheapest cut of the layers before `end`, as (cost, block starts).
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for _ in range(count):
        longer: dict[int, tuple[float, tuple[int, ...]]] = {}
        for start, (cost, starts) in best.items():
            for end in range(start + 1, min(start + longest, num_layers) + 1):
                option = (cost + _distance(cosine, start, end), (*starts, start))
                if end not in longer or option < longer[end]:
                    longer[end] = option
        best = longer
    return best[num_layers][1]


def _cost(cosine: Sequence[Sequence[float]], layers: LayerMap) -> float:
    return sum(_distance(cosine, block.start, block.stop) for block in layers.blocks)


def _distance(cosine: Sequence[Sequence[float]], start: int, end: int) -> float:
    """How far the layers of a block after its first one carry the state."""
    return 0.0 if end == start + 1 else 1 - cosine[start + 1][end]


def _outstanding(cosine: Sequence[Sequence[float]], kept: Sequence[int]) -> str:
    changes = [1 - cosine[i][i + 1] for i in range(len(cosine) - 1)]
    median = statistics.median(changes)
    most = [layer for layer in kept if changes[layer] > _STANDS_OUT * median]
    if not most:
        return ""
    values = ", ".join(f"{layer} ({changes[layer]:.3f})" for layer in most)
    return f"; kept layers that change it much, against a median of {median:.3f}: {values}"


def _spell(layers: Sequence[int], separator: str = ", ") -> str:
    return separator.join(map(str, layers))
