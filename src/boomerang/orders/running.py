"""Running live models over text and looking at the states between their layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..models.head import base_model
from ..models.modules import layer_stack
from ..text.windows import Window

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of a call: a CPU is busy with few, an accelerator needs many.
_TOKENS_ON_CPU = 1 << 10
_TOKENS = 1 << 14

See = Callable[[int, Tensor, Tensor], None]
"""Called with the index of a layer and the states `[B, S, D]` before and after it."""


@dataclass(frozen=True)
class Batch:
    """One call of a model, and which of its positions count.

    Attributes:
        tokens: `[B, S]`, int64; shorter rows are padded on the right, where no real token looks.
        read: `[K]`, int64: the positions that count, as indices into `[B * S]`.
        targets: `[K]`, int64: the token after each.
    """

    tokens: Tensor
    read: Tensor
    targets: Tensor


def batches(windows: Sequence[Window], device: torch.device) -> Iterator[Batch]:
    """Text as calls of a model, in which every token that a window scores counts once.

    Args:
        windows: From `prepare`.
        device: Where the model takes its inputs.
    """
    most = _TOKENS_ON_CPU if device.type == "cpu" else _TOKENS
    left = sorted(windows, key=lambda window: len(window.inputs), reverse=True)
    while left:
        width = len(left[0].inputs)
        rows, left = left[: max(1, most // width)], left[max(1, most // width) :]
        # Any token would do for padding.
        tokens = [
            window.inputs + window.inputs[-1:] * (width - len(window.inputs)) for window in rows
        ]
        read = [
            row * width + place
            for row, window in enumerate(rows)
            for place in range(window.start, len(window.inputs))
        ]
        targets = [token for window in rows for token in window.targets]
        yield Batch(*(torch.tensor(values, device=device) for values in (tokens, read, targets)))


def final_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The states after the final norm at the positions that count, `[K, D]`."""
    base = base_model(model)
    states: Tensor = base(input_ids=batch.tokens, use_cache=False, return_dict=True)[0]
    return states.flatten(0, 1)[batch.read.to(states.device)]


def layer_states(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """The states before the first layer and after each, at the positions that count: `[K, D]` each.

    The last one is before the final norm, unlike that of transformers' `hidden_states`.
    """
    states: list[Tensor] = []

    def see(layer: int, before: Tensor, after: Tensor) -> None:
        for state in (before, after)[layer > 0 :]:
            states.append(state.flatten(0, 1)[batch.read.to(state.device)])

    with watched(model, see):
        final_states(model, batch)
    return states


@contextmanager
def watched(model: PreTrainedModel, see: See) -> Iterator[None]:
    """Let `see` look at every layer's input and output while the model runs; nothing is kept."""
    with ExitStack() as hooks:
        for index, layer in enumerate(layer_stack(model)):
            hook = layer.register_forward_hook(_hook(index, see), with_kwargs=True)
            hooks.callback(hook.remove)
        yield


def _hook(index: int, see: See) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        see(index, before, output[0] if isinstance(output, tuple) else output)

    return hook
