"""Run models that share leading layers, each distinct prefix of layers once.

Each model is a path: one key for each of its layers, equal in two models where the layers are. (A
member's embedding is that of the owner of its first layer, so members that share a layer share
their embedding too.) The paths form a trie, walked depth first. The state at a branch point is held
until the last branch has started, and the branch that holds most states goes last. So n models hold
at most log2(n) states beside the running one, and just one along a sequential order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..models.runner import Runner

Path = Sequence[Hashable]


@dataclass(frozen=True)
class Visit:
    """One model run from a held state to its end.

    Attributes:
        path: Which path.
        skip: How many leading layers have run before: the output of layer `skip - 1` is held.
        keep: Depths at which the state is held from this visit on, for later ones.
        last: Whether no later visit needs the state at `skip`.
    """

    path: int
    skip: int = 0
    keep: frozenset[int] = frozenset()
    last: bool = False


def walk(paths: Sequence[Path]) -> tuple[Visit, ...]:
    """The visits to all paths, in an order that holds the fewest states.

    Args:
        paths: Pairwise different; one may be the beginning of another.
    """
    return tuple(_walk(paths, range(len(paths)), 0)[1]) if paths else ()


def _walk(paths: Sequence[Path], group: Sequence[int], skip: int) -> tuple[int, list[Visit]]:
    """The most states that a group of paths holds at once, and its visits.

    Args:
        paths: All paths.
        group: Some of them that agree in their first `skip` keys.
        skip: Where the group's first visit starts.
    """
    if len(group) == 1:
        return 0, [Visit(group[0], skip)]
    depth = _common(paths, group)
    children: dict[Hashable, list[int]] = {}
    for index in group:
        # A path that ends here has nothing left.
        children.setdefault(tuple(paths[index][depth : depth + 1]), []).append(index)
    if len(children) == 1:
        raise ValueError("two paths are equal")
    branches = sorted(
        (_walk(paths, child, depth) for child in children.values()), key=lambda branch: branch[0]
    )
    *others, (needed, of_last) = branches
    visits = [visit for _, branch in branches for visit in branch]
    if depth == 0:
        return needed, visits
    visits[0] = replace(visits[0], skip=skip, keep=visits[0].keep | {depth})
    last = len(visits) - len(of_last)
    visits[last] = replace(visits[last], last=True)
    return max(needed, *(number + 1 for number, _ in others)), visits


def _common(paths: Sequence[Path], group: Sequence[int]) -> int:
    """How many leading keys all paths of a group share."""
    first = paths[group[0]]
    depth = min(len(paths[index]) for index in group)
    while any(paths[index][:depth] != first[:depth] for index in group):
        depth -= 1
    return depth


def final_states(
    runners: Sequence[Runner], visits: Sequence[Visit], inputs: Mapping[str, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Run models on one batch, in the order of a walk.

    Args:
        runners: The models; nobody else runs them meanwhile.
        visits: From `walk`.
        inputs: Arguments of a base model.

    Yields:
        The index of a model, and its states after the final norm, `[B, S, D]`.
    """
    held: dict[int, Any] = {}
    for visit in visits:
        given: list[Any] = []
        if visit.skip:
            given = [held.pop(visit.skip) if visit.last else held[visit.skip]] * visit.skip
        states, kept = runners[visit.path].resume(inputs, given, visit.keep)
        held |= kept
        del kept
        yield visit.path, states
        del states
