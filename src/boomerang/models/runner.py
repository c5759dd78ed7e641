"""Run a model's layers, and keep or replace the states between them.

State i is what layer i receives (0: the embedding output), and state N what the last of N layers
returns, before the final norm. `LAST` (-1) is what the base model returns, after the norm, as at
the end of transformers' `hidden_states`. `output_hidden_states=True` would keep every state, and
the model's own forward would compute all logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .head import Head, forward_replaced
from .parts import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAST = -1
_NAME = "hidden_states"


class Runner:
    """Runs a model by its own code up to the head.

    Masks, positions and everything between the layers stay the model's business, so every state is
    bitwise that of the plain model. A runner is not a module: a module that keeps one does not own
    the model.

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

    @property
    def num_layers(self) -> int:
        """N, the number of layers that run."""
        return len(self._taps)

    def run(
        self, inputs: Mapping[str, Any], states: Iterable[int] = (), *, entry: Tensor | None = None
    ) -> dict[int, Tensor]:
        """One forward pass up to the head, in the caller's grad mode, without a KV cache.

        Args:
            inputs: `input_ids`, and `attention_mask` or `position_ids`.
            states: Indices of the states to keep; `LAST` is kept in any case.
            entry: What the first layer receives in place of the embedding output, `[B, S, D]`.

        Returns:
            The states by index, `[B, S, D]`.
        """
        wanted = set(states)
        kept: dict[int, Tensor] = {}
        for index in wanted - {LAST, self.num_layers}:
            self._taps[index].on_input = partial(kept.__setitem__, index)
        outputs: dict[int, Any] = {}
        for depth in wanted & {self.num_layers}:
            self._taps[depth - 1].on_output = partial(outputs.__setitem__, depth)
        kept[LAST] = self._pass(inputs, entry)
        for index, output in outputs.items():
            kept[index] = output[0] if isinstance(output, tuple) else output
        return kept

    def resume(
        self, inputs: Mapping[str, Any], given: list[Any], keep: Iterable[int]
    ) -> tuple[Tensor, dict[int, Any]]:
        """One forward pass in which the first layers are not run.

        Args:
            inputs: As in `run`.
            given: For each layer that is not run what it returns: what the last of them returned in
                another model, in the very form it had. Emptied during the pass, so that the state
                is freed as soon as the next layer is done with it.
            keep: Depths d: what layer d-1 returns is kept, in the very form it has.

        Returns:
            State `LAST`, and what was kept, by depth.
        """
        for tap in self._taps[: len(given)]:
            tap.given = given
        outputs: dict[int, Any] = {}
        for depth in keep:
            self._taps[depth - 1].on_output = partial(outputs.__setitem__, depth)
        return self._pass(inputs), outputs

    def _pass(self, inputs: Mapping[str, Any], entry: Tensor | None = None) -> Tensor:
        """State `LAST` of a pass through the taps, which afterwards keep nothing."""
        # It stays: activation checkpointing may call the tap again in the backward pass.
        self._taps[0].entry = entry
        # The model's own call, so that a wrapper's hooks run; it leads to the base model alone.
        with self._tapped(), forward_replaced(self.model, self.head.base):
            final: Tensor = self.model(**inputs, use_cache=False, return_dict=True)[0]
        return final

    @contextmanager
    def _tapped(self) -> Iterator[None]:
        """Put the taps in the place of the layers."""
        own = self._stack._modules
        self._stack._modules = {str(i): tap for i, tap in enumerate(self._taps)}
        try:
            yield
        finally:
            self._stack._modules = own
            for tap in self._taps:
                tap.clear()


class _Tap(nn.Module):
    """Stands before a layer: shows or replaces what the layer receives or returns.

    Hooks would do the same inside the layer's call, where compilation and activation checkpointing
    would take part in it.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.entry: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        """Keep and replace nothing, the entry apart."""
        self.on_input: Callable[[Tensor], None] | None = None
        self.on_output: Callable[[Any], None] | None = None
        self.given: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.given:
            return self.given.pop()
        if self.entry is not None or self.on_input is not None:
            args, kwargs = self._received(args, kwargs)
        output = self.layer(*args, **kwargs)
        if self.on_output is not None:
            self.on_output(output)
        return output

    def _received(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Arguments of the layer, the entry among them, once its state has been shown."""
        states = args[0] if args else kwargs[_NAME]
        if self.entry is not None:
            # A teacher in bf16 hands over bf16, the student computes in its own precision.
            states = self.entry.to(states.dtype)
        if self.on_input is not None:
            self.on_input(states)
        if args:
            return (states, *args[1:]), kwargs
        return args, {**kwargs, _NAME: states}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Base models read settings of their layers, such as the kind of attention.
            return getattr(super().__getattr__("layer"), name)
