"""Advice from measurements alone: which layers to keep, and from which end to patch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..layers import LayerMap

# The reason names kept layers that change the state this many times as much as the median.
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
        choice = self.choice if isinstance(self.choice, str) else ",".join(map(str, self.choice))
        return f"{choice}: {self.reason}"


def advise_keep(cosine: Sequence[Sequence[float]], compared: LayerMap) -> Advice:
    """The layers to keep.

    A student layer starts as the first layer of its block and must end where the block ends. So
    the cost of a block is 1 - cos between the state after its first layer and the state after its
    last. Among the cuts of the teacher into as many blocks as a plan has, none longer than the
    plan's longest, the advice is the one of the least total cost.

    Args:
        cosine: Mean cosine of the teacher's states, (N+1) x (N+1); state 0 is the embedding output,
            state i that after layer i-1.
        compared: The plan, such as the student's or `LayerMap.every`.
    """
    num_layers = compared.num_layers
    longest = max(len(block) for block in compared.blocks)
    kept = _cheapest(cosine, compared.num_student_layers, longest)
    best, given = (
        sum(_cost(cosine, block.start, block.stop) for block in LayerMap(layers, num_layers).blocks)
        for layers in (kept, compared.kept)
    )
    reason = (
        f"of all ways to keep {len(kept)} of {num_layers} layers in blocks of at most {longest}, "
        f"the pruned layers of this one change the state least (1 - cos sums to {best:.3f}"
    )
    if kept != compared.kept:
        reason += f", for {', '.join(map(str, compared.kept))} to {given:.3f}"
    changes = [1 - cosine[i][i + 1] for i in range(num_layers)]
    median = statistics.median(changes)
    most = [f"{i} ({changes[i]:.3f})" for i in kept if changes[i] > _STANDS_OUT * median]
    reason += ")"
    if most:
        reason += f"; kept layers that change it much, against a median of {median:.3f}: "
        reason += ", ".join(most)
    return Advice(kept, reason)


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
    listed = ", ".join(f"{value:.4f} nats {order}" for order, value in means.items())
    return Advice(
        min(means, key=means.__getitem__),
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
                option = (cost + _cost(cosine, start, end), (*starts, start))
                if end not in longer or option < longer[end]:
                    longer[end] = option
        best = longer
    return best[num_layers][1]


def _cost(cosine: Sequence[Sequence[float]], start: int, end: int) -> float:
    """1 - cos between the states after the first and after the last layer of a block."""
    return 0.0 if end == start + 1 else 1 - cosine[start + 1][end]
