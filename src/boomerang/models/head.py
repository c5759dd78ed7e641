"""A model's own way from final hidden states to logits, a few tokens at a time.

The model's own forward runs while its base model returns the given states. So soft-capping,
scaling, biases and transforms need no code here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ArchitectureError
from .parts import find_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The sum of a parameter's gradients, for each parameter.
Sums = Mapping[Tensor, Tensor]

_FORWARD = "forward"


class Head:
    """The last part of a model as a function.

    Args:
        model: Its parameters must be whole, not sharded, while the head is used.

    Attributes:
        base: The child of the model that holds its layers and returns the final hidden states.

    Raises:
        ArchitectureError: The model has no base model inside, or no output matrix.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # From the base model down to the module with the layer stack.
        self._path = find_parts(model).layers.split(".")[:-1]
        if not self._path:
            raise ArchitectureError("has no base model inside", where=type(model).__name__)
        self.base = model.get_submodule(self._path[0])
        matrix = model.get_output_embeddings()
        if matrix is None:
            raise ArchitectureError("has no output matrix", where=type(model).__name__)
        self.matrix: nn.Module = matrix

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
        name, *inner = self._path
        children = self.model._modules
        children[name] = _Given(self.base, inner, states[None])
        try:
            # Not through __call__: a wrapper's hooks belong to the pass through the whole model.
            output = self.model.forward(input_ids=tokens, use_cache=False, return_dict=True)
        finally:
            children[name] = self.base
        return output.logits.flatten(0, -2)

    @contextmanager
    def repeated(self, sums: Sums) -> Iterator[None]:
        """Make many calls cheap: a plain output matrix adds up its gradients in place.

        Args:
            sums: Where the output matrix adds its gradients, by parameter; autograd sees none.
        """
        with ExitStack() as replaced:
            if _is_plain(self.matrix):
                replaced.enter_context(forward_replaced(self.matrix, _Matrix(self.matrix, sums)))
            yield


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let calls of a module run `forward` in place of its own forward and any wrapper of it."""
    # An attribute of the instance, where accelerate keeps its wrapper too.
    own = vars(module).get(_FORWARD)
    vars(module)[_FORWARD] = forward
    try:
        yield
    finally:
        del vars(module)[_FORWARD]
        if own is not None:
            vars(module)[_FORWARD] = own


class _Given(nn.Module):
    """Takes the place of a base model, without its hooks, and returns given states."""

    def __init__(self, base: nn.Module, inner: Sequence[str], states: Tensor) -> None:
        super().__init__()
        self._states = states
        # A list, so that the base model does not become a submodule.
        self._replaced = [base]
        for name in inner:
            self._replaced.append(self._replaced[-1].get_submodule(name))

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


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a module is just an `nn.Linear`: not quantised, adapted or parametrised."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and _FORWARD not in vars(module)
        and isinstance(module._parameters.get("weight"), nn.Parameter)
    )


class _Matrix:
    """The forward of a plain `nn.Linear` that is called many times, with the same result.

    At each call autograd would allocate a gradient as large as the weight; here each call adds to a
    sum in place. Under autocast the weight is cast once instead of at each call.

    Args:
        module: A plain `nn.Linear`.
        sums: Where the gradients are added up, by parameter of the module.
    """

    def __init__(self, module: nn.Linear, sums: Sums) -> None:
        kind = module.weight.device.type
        cast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if cast else module.weight.dtype
        self.weight = module.weight.detach().to(dtype)
        self.bias = None if module.bias is None else module.bias.detach().to(dtype)
        self.weight_sum = sums.get(module.weight)
        self.bias_sum = None if module.bias is None else sums.get(module.bias)

    def __call__(self, states: Tensor) -> Tensor:
        """`[..., D]` -> `[..., V]`."""
        result: Tensor = _Product.apply(states.to(self.weight.dtype), self)
        return result


class _Product(torch.autograd.Function):
    """The product of a `_Matrix`, whose backward adds to its sums."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, matrix: _Matrix) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(states)
        return F.linear(states, matrix.weight, matrix.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        matrix: _Matrix = ctx.matrix
        rows, states = gradient.flatten(0, -2), ctx.saved_tensors[0].flatten(0, -2)
        if matrix.weight_sum is not None:
            if rows.dtype == matrix.weight_sum.dtype:
                matrix.weight_sum.addmm_(rows.T, states)
            else:
                matrix.weight_sum += rows.T @ states
        if matrix.bias_sum is not None:
            matrix.bias_sum += rows.sum(0, dtype=matrix.bias_sum.dtype)
        return gradient @ matrix.weight, None
