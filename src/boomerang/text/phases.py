"""Which rows a run of several phases sees, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler


class Phase(NamedTuple):
    """Rows that stand together in the text, and are seen together.

    Attributes:
        rows: How many there are.
        share: Of the whole run; the shares of all phases are 1 together.
    """

    rows: int
    share: float


class PhasedSampler(Sampler[int]):
    """The rows of a whole run, one phase after the other, each phase's in random order.

    A phase whose share is more than it has rows begins anew, in another order; of one whose share
    is less, some rows are not seen.

    Args:
        phases: In their order, which is that of their rows.
        total: The rows that the run sees.
        seed: Decides the order.
    """

    def __init__(self, phases: Sequence[Phase], total: int, seed: int) -> None:
        self.phases = phases
        self.total = total
        self.seed = seed

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        begin, seen, share = 0, 0, 0.0
        for phase in self.phases:
            share += phase.share
            end = round(self.total * share)
            while seen < end:
                order = torch.randperm(phase.rows, generator=generator)[: end - seen]
                yield from (order + begin).tolist()
                seen += len(order)
            begin += phase.rows
