"""Run a model's layers and keep the hidden states that are needed, no others.

States are numbered as in transformers' `hidden_states`: state i is what layer i receives (0: the
embedding output), and -1 what the base model returns, after the final norm.
`output_hidden_states=True` would hold every one of them, and the model's own forward all logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .head import Head
from .modules import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAST = -1
_NAME = "hidden_states"


class Runner:
    """A model without its head, with hands on the inputs of its layers.

    Not a module itself, so that a module that keeps one does not own the model.

    Args:
        model: The model; its structure must not change afterwards.
        layers: What runs in place of its layers, as many; by default they run themselves. They keep
            their wrappers, settings and modes.

    Raises:
        ArchitectureError: The model is no base model with a head, or has no single layer stack.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module] | None = None) -> None:
        self.model = model
        self.head = Head(model)
        self._stack = layer_stack(model)
        self._taps = [_Tap(layer) for layer in layers or self._stack]

    def run(
        self, inputs: Mapping[str, Any], states: Iterable[int], *, entry: Tensor | None = None
    ) -> dict[int, Tensor]:
        """One forward pass up to the head, in the caller's grad mode, without a KV cache.

        Args:
            inputs: `input_ids`, and `attention_mask` or `position_ids`.
            states: Indices of the hidden states to keep; `LAST` is kept in any case.
            entry: What the first layer receives in place of the embedding output, `[B, S, D]`.

        Returns:
            The states by their indices, `[B, S, D]`.
        """
        heard = {index: self._taps[index] for index in states if index != LAST}
        for tap in heard.values():
            tap.listens = True
        # It stays: activation checkpointing may call the tap again in the backward pass.
        self._taps[0].entry = entry
        with self._tapped(), _without_head(self.model, self.head.base):
            final = self.model(**inputs, use_cache=False, return_dict=True)[0]
        return {LAST: final} | {index: tap.stop() for index, tap in heard.items()}

    @contextmanager
    def _tapped(self) -> Iterator[None]:
        own = self._stack._modules
        self._stack._modules = {str(i): tap for i, tap in enumerate(self._taps)}
        try:
            yield
        finally:
            self._stack._modules = own


@contextmanager
def _without_head(model: nn.Module, base: nn.Module) -> Iterator[None]:
    """The model's own call, wrappers' hooks and all, comes down to its base model's."""
    own = vars(model).get("forward")
    vars(model)["forward"] = base
    try:
        yield
    finally:
        del vars(model)["forward"]
        if own is not None:
            vars(model)["forward"] = own


class _Tap(nn.Module):
    """Stands before a layer: tells what the layer receives, or replaces it.

    Hooks would do the same inside of the layer's call, where compilation and activation
    checkpointing would take part in it.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.listens = False
        self.heard: Tensor | None = None
        self.entry: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        states = args[0] if args else kwargs[_NAME]
        if self.entry is not None:
            # A teacher in bf16 hands over bf16, the student computes in its own precision.
            states = self.entry.to(states.dtype)
        if self.listens:
            self.heard = states
        if args:
            return self.layer(states, *args[1:], **kwargs)
        return self.layer(**{**kwargs, _NAME: states})

    def stop(self) -> Tensor:
        """Listen no more; what was heard last."""
        heard, self.heard, self.listens = self.heard, None, False
        assert heard is not None
        return heard

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Base models read settings of their layers, such as the kind of attention.
            return getattr(super().__getattr__("layer"), name)
