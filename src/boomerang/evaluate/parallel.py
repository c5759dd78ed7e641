"""The processes that share an evaluation, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# A process that is done waits for the slowest one, however long that takes.
_TIMEOUT = timedelta(weeks=4)


@dataclass(frozen=True)
class Ranks:
    """This process among those that share an evaluation; rank 0 writes the results."""

    rank: int = 0
    world: int = 1
    group: Any = None  # over gloo

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.rank == 0

    def share(self, items: Sequence[int], documents: Sequence[int]) -> tuple[int, ...]:
        """This process's part of some items; items of one document stay together."""
        return tuple(item for item in items if documents[item] % self.world == self.rank)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier(group=self.group)


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """The processes of this run; just one without `torchrun`."""
    running = dist.is_initialized()
    world = dist.get_world_size() if running else int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    if not running:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), world, dist.new_group(backend="gloo", timeout=_TIMEOUT))
    finally:
        if not running:
            dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is alone, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: torch.device | str | None) -> torch.device | str | None:
    """A kind of device with this process's local rank as index; anything else unchanged."""
    rank = os.environ.get("LOCAL_RANK")
    if device is None or rank is None:
        return device
    kind = torch.device(device)
    return device if kind.type == "cpu" or kind.index is not None else f"{kind.type}:{rank}"
