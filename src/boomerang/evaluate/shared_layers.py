"""Running models that share leading layers, each distinct prefix of layers once.

Each model is a path: one key for each of its layers, equal in two models where the layers are. (A
member's embedding is that of the owner of its first layer, so members that share a layer share
their embedding too.) The paths form a trie, walked depth first. At a branch point the state there
is held until the last branch has started; the branch that needs most states goes last and finds it
given back. So with n models at most log2(n) states are held beside the running one, and just one
along the two sequential orders of patching.

Every model runs by its own forward; layers that another model has run on the same input are
replaced during the call by what they returned there. So masks, positions and rotary embeddings are
the model's own business, and every state is bitwise what it would be alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..models.modules import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Path = Sequence[Hashable]

_FORWARD = "forward"


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
        # A path that ends here has nothing left.
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


def final_states(
    models: Sequence[PreTrainedModel],
    bases: Sequence[nn.Module],
    visits: Sequence[Visit],
    inputs: Mapping[str, Tensor],
) -> Iterator[tuple[int, Tensor]]:
    """Run models on one batch, in the order of a walk.

    Args:
        models: Shells of their own, which nobody else runs meanwhile.
        bases: The base model in each: what runs the layers.
        visits: From `walk`.
        inputs: Arguments of a base model.

    Yields:
        The index of a model, and its states after the final norm, `[B, S, D]`.
    """
    held: dict[int, Any] = {}
    for visit in visits:
        layers = layer_stack(models[visit.path])
        with ExitStack() as restored:
            if visit.skip:
                output = held.pop(visit.skip) if visit.last else held[visit.skip]
                _stand_in(layers[: visit.skip], output, restored)
                del output
            for depth in visit.keep:
                hook = layers[depth - 1].register_forward_hook(_keep_in(held, depth))
                restored.callback(hook.remove)
            states = bases[visit.path](**inputs, use_cache=False, return_dict=True)[0]
        yield visit.path, states
        del states


def _stand_in(layers: nn.ModuleList, output: Any, restored: ExitStack) -> None:
    """Let layers return what the last of them returned elsewhere, in the very form it had."""
    # Each call takes one reference away, so that the state is freed once the layers are passed.
    outputs = [output] * len(layers)
    for layer in layers:
        # An attribute of the instance, where accelerate keeps its own wrapper too.
        before = layer.__dict__.get(_FORWARD)
        layer.__dict__[_FORWARD] = lambda *args, **kwargs: outputs.pop()
        restored.callback(_restore, layer, before)


def _restore(layer: nn.Module, before: Any) -> None:
    if before is None:
        del layer.__dict__[_FORWARD]
    else:
        layer.__dict__[_FORWARD] = before


def _keep_in(held: dict[int, Any], depth: int) -> Callable[..., None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        held[depth] = output

    return keep
