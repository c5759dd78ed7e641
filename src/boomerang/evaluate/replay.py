"""Running models that share leading layers, each distinct prefix of layers once.

Every model runs by its own forward; layers that another model has run on the same input are
replaced for the time of the call by what they returned there. So masks, positions and rotary
embeddings are the model's own business, and every state is bitwise what it would be alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..models.modules import layer_stack
from .trie import Visit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORWARD = "forward"


def final_states(
    models: Sequence[PreTrainedModel],
    bases: Sequence[nn.Module],
    visits: Sequence[Visit],
    inputs: Mapping[str, Tensor],
) -> Iterator[tuple[int, Tensor]]:
    """Run models on one batch, in the order of a walk.

    The states between layers that are held meanwhile are those of `trie.states_held`.

    Args:
        models: Shells of their own, which nobody else runs meanwhile.
        bases: The base model in each: what runs the layers.
        visits: From `trie.walk`.
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
