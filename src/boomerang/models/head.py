"""A model's own way from final hidden states to logits, a few tokens at a time.

Soft-capping, scaling, biases and transforms are the model's business: its own forward runs, with
the base model's place taken by a module that returns the given states.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from .matrix import Matrix, Sums, is_plain
from .modules import find_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def base_model(model: PreTrainedModel) -> nn.Module:
    """The child of a model that holds its layers and returns the final hidden states.

    Raises:
        ArchitectureError: The model is itself one.
    """
    path = _path_to_layers(model)
    if not path:
        raise ArchitectureError("has no base model inside", where=type(model).__name__)
    return model.get_submodule(path[0])


class Head:
    """The last part of a model as a function.

    Args:
        model: Its parameters must be whole, not sharded, while the head is used.

    Raises:
        ArchitectureError: The model has no base model inside, or no output matrix.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.base = base_model(model)
        matrix = model.get_output_embeddings()
        if matrix is None:
            raise ArchitectureError("has no output matrix", where=type(model).__name__)
        self.matrix: nn.Module = matrix
        self._name, *inner = _path_to_layers(model)
        self._inside = [self.base]
        for name in inner:
            self._inside.append(self._inside[-1].get_submodule(name))

    @property
    def vocab_size(self) -> int:
        """The number of logits of a token."""
        return int(self.model.config.get_text_config().vocab_size)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters outside the base model, and the output matrix wherever it is."""
        outside = [child for child in self.model.children() if child is not self.base]
        modules = [self.model, *(m for child in (*outside, self.matrix) for m in child.modules())]
        found = (p for module in modules for p in module._parameters.values())
        return list(dict.fromkeys(p for p in found if p is not None and p.requires_grad))

    def __call__(self, states: Tensor) -> Tensor:
        """Logits `[T, V]` of final hidden states `[T, D]`, as the whole model computes them."""
        tokens = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        children = self.model._modules
        children[self._name] = _Given(states[None], self._inside)
        try:
            # Not through __call__: a wrapper's hooks belong to the pass through the whole model.
            output = self.model.forward(input_ids=tokens, use_cache=False, return_dict=True)
        finally:
            children[self._name] = self.base
        return output.logits.flatten(0, -2)

    @contextmanager
    def repeated(self, sums: Sums) -> Iterator[None]:
        """Make many calls cheap: a `Matrix` stands in for the output matrix, if that is plain.

        Args:
            sums: Where its gradients are added up, by its parameters; autograd finds them nowhere.
        """
        if not is_plain(self.matrix):
            yield
            return
        self.matrix.__dict__["forward"] = Matrix(self.matrix, sums)
        try:
            yield
        finally:
            del self.matrix.__dict__["forward"]


class _Given(nn.Module):
    """Takes the place of a base model, or of the decoder in it, and returns given states."""

    def __init__(self, states: Tensor, replaced: list[nn.Module]) -> None:
        super().__init__()
        self._states = states
        self._replaced = replaced

    def forward(self, *args: Any, **kwargs: Any) -> _Output:
        return _Output((self._states,))

    def __getattr__(self, name: str) -> Any:
        base, *inner = self.__dict__["_replaced"]
        value = getattr(base, name)
        # Some classes call the decoder inside their base model, others read its attributes.
        return self if any(value is module for module in inner) else value


class _Output(tuple[Tensor]):
    """A base model's output of any class: the final states, and nothing else."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def _path_to_layers(model: PreTrainedModel) -> list[str]:
    return find_parts(model).layers.split(".")[:-1]
