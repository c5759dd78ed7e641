"""Run a model and keep the hidden states that are needed, no others.

States are numbered as in transformers' `hidden_states`: state i is what layer i receives (0: the
embedding output), and -1 what the base model returns, after the final norm.
`output_hidden_states=True` would hold every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..architecture.modules import layer_stack
from ..errors import ArchitectureError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAST = -1
_NAME = "hidden_states"


class Runner:
    """A model with hands on the inputs of its layers.

    Not a module itself, so that a module that keeps one does not own the model.

    Args:
        model: The model; its structure must not change afterwards.
        enters: Whether `run` replaces what the first layer receives. The hook for this stays on the
            model, because activation checkpointing may run the layer again in the backward pass.

    Raises:
        ArchitectureError: The model is no base model with a head, or has no single layer stack.
    """

    def __init__(self, model: PreTrainedModel, *, enters: bool = False) -> None:
        if model.base_model is model:
            raise ArchitectureError("has no base model inside", where=type(model).__name__)
        self.model = model
        self.layers = layer_stack(model)
        self._entry: Tensor | None = None
        if enters:
            self.layers[0].register_forward_pre_hook(self._enter, with_kwargs=True)

    def run(
        self,
        inputs: Mapping[str, Any],
        states: Iterable[int],
        *,
        logits: bool = True,
        entry: Tensor | None = None,
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        """One forward pass, in the caller's grad mode, without a KV cache.

        Args:
            inputs: `input_ids`, and `attention_mask` or `position_ids`.
            states: Indices of the hidden states to keep.
            logits: Whether to go through the head.
            entry: What the first layer receives in place of the embedding output, `[B, S, D]`.

        Returns:
            The model's own logits `[B, S, V]` (None without `logits`), and the states `[B, S, D]`.
        """
        kept: dict[int, Tensor] = {}
        self._entry = entry
        with ExitStack() as hooks:
            for index in states:
                hooks.callback(self._keep(index, kept).remove)
            model = self.model if logits else self.model.base_model
            output = model(**inputs, use_cache=False, return_dict=True)
        return (output.logits if logits else None), kept

    def _keep(self, index: int, kept: dict[int, Tensor]) -> RemovableHandle:
        if index == LAST:

            def after(module: nn.Module, args: Any, output: Any) -> None:
                kept[index] = output[0]

            return self.model.base_model.register_forward_hook(after)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept[index] = args[0] if args else kwargs[_NAME]

        return self.layers[index].register_forward_pre_hook(before, with_kwargs=True)

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._entry is None:
            return None
        replaced = args[0] if args else kwargs[_NAME]
        # A teacher in bf16 hands over bf16, the student computes its states in its own precision.
        entry = self._entry.to(replaced.dtype)
        return ((entry, *args[1:]), kwargs) if args else (args, {**kwargs, _NAME: entry})
