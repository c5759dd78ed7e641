"""The processes that share an evaluation, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import BoomerangError

T = TypeVar("T")

# A process that is done waits for the slowest one, however long that takes.
_PATIENCE = timedelta(weeks=4)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: From 0; the first one writes results.
        world: The number of processes.
        group: The group they talk in, over gloo.
    """

    rank: int = 0
    world: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes results."""
        return self.rank == 0

    def share(self, items: Sequence[int], documents: Sequence[int]) -> tuple[int, ...]:
        """This process's part of some items, those of a document together."""
        return tuple(item for item in items if documents[item] % self.world == self.rank)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier(group=self.group)

    def in_turn(self, make: Callable[[], T]) -> T:
        """Do something in the first process and then in the others; all have done it on return.

        Raises:
            BoomerangError: What the first process raised, in all of them.
        """
        if self.world == 1:
            return make()
        made: T | None = None
        problem: list[BoomerangError | None] = [None]
        if self.first:
            try:
                made = make()
            except BoomerangError as error:
                problem = [error]
        dist.broadcast_object_list(problem, src=0, group=self.group)
        if problem[0] is not None:
            raise problem[0]
        result = make() if made is None else made
        self.wait()
        return result


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """The processes of this run; alone without `torchrun`."""
    if dist.is_initialized():
        world = dist.get_world_size()
        group = dist.new_group(backend="gloo", timeout=_PATIENCE) if world > 1 else None
        yield Ranks(dist.get_rank(), world, group)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo", timeout=_PATIENCE)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield Ranks()


def is_first() -> bool:
    """Whether this process is alone, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: torch.device | str | None) -> torch.device | str | None:
    """The device of this process where a kind of device is named: that of its local rank."""
    rank = os.environ.get("LOCAL_RANK")
    if device is None or rank is None:
        return device
    kind = torch.device(device)
    return device if kind.type == "cpu" or kind.index is not None else f"{kind.type}:{rank}"
