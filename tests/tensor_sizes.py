"""Watch the sizes of the tensors that come into being."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Sizes(TorchDispatchMode):
    """Remembers how large the largest new tensor was, of all dtypes and of fp32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.largest_fp32 = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        held = {t.untyped_storage().data_ptr() for t in tree_leaves(args) if isinstance(t, Tensor)}
        for tensor in tree_leaves(output):
            # Views of what was there before are nothing new.
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in held:
                self.largest = max(self.largest, tensor.numel())
                if tensor.dtype == torch.float32:
                    self.largest_fp32 = max(self.largest_fp32, tensor.numel())
        return output
