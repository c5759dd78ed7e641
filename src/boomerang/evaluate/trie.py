"""In which order to run models that share leading layers, so that each distinct prefix runs once.

Each model is a path: one key for each of its layers, equal in two models where the layers are. (A
member's embedding is that of the owner of its first layer, so members that share a layer share
their embedding too.) The paths form a trie, walked depth first. At a branch point the state there
is held until the last branch has started; the branch that needs most states goes last and finds it
given back. So of n models at most log2(n) states are held beside the running one, and along the
two sequential orders of patching, where every branch point has a single model on one side, just
one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

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
    """The states that a group of paths holds at most, and its visits.

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
        # Of a path that ends here nothing is left.
        children.setdefault(tuple(paths[index][depth : depth + 1]), []).append(index)
    if len(children) == 1:
        raise ValueError("two paths are equal")
    branches = sorted((_walk(paths, child, depth) for child in children.values()), key=_needed)
    *others, (needed, _) = branches
    visits = [visit for _, branch in branches for visit in branch]
    if depth == 0:
        return max(number for number, _ in branches), visits
    starts = [0]
    for _, branch in others:
        starts.append(starts[-1] + len(branch))
    visits[0] = replace(visits[0], skip=skip, keep=visits[0].keep | {depth})
    visits[starts[-1]] = replace(visits[starts[-1]], last=True)
    return max(needed, *(number + 1 for number, _ in others)), visits


def _needed(branch: tuple[int, list[Visit]]) -> int:
    return branch[0]


def _common(paths: Sequence[Path], group: Sequence[int]) -> int:
    """How many leading keys all paths of a group share."""
    first = paths[group[0]]
    depth = min(len(paths[index]) for index in group)
    while any(paths[index][:depth] != first[:depth] for index in group):
        depth -= 1
    return depth
