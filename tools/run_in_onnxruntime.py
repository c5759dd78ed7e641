"""Run built members in ONNX Runtime and compare with transformers: `make check-onnxruntime`.

Each member's directory is loaded by transformers, exported by `torch.onnx.export` with a KV cache
and any number of texts and tokens, and run by ONNX Runtime in float32 on the CPU: the prompts at
once, then a token at a time. Prints a line per case and exits with 1 when one differs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from member_cases import Prompts, check

Cache = list[tuple[Tensor, Tensor]]


class Step(nn.Module):
    """A causal model as a function of tensors alone, its KV cache among them.

    Args:
        model: Any decoder of transformers whose layers all attend to the whole text.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """One pass over new tokens.

        Args:
            input_ids: The new tokens [text, new].
            past: For each layer, keys and values [text, head, past, head size].

        Returns:
            Logits [text, new, vocabulary], and the cache with the new tokens.
        """
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        output = self.model(input_ids=input_ids, past_key_values=cache, use_cache=True)
        grown: list[Any] = cache.layers
        return output.logits, [(layer.keys, layer.values) for layer in grown]


def export(model: Any, path: Path) -> None:
    """Write a model as an ONNX file."""
    grows = {0: "text", 2: "past"}
    # Sizes of 0 and 1 would be taken for constants, so the example has none.
    example = (torch.ones(2, 3, dtype=torch.int64), zero_cache(model, texts=2, past=5))
    torch.onnx.export(
        Step(model).eval(),
        example,
        path,
        dynamic_shapes=({0: "text", 1: "new"}, [(grows, grows) for _ in example[1]]),
        dynamo=True,
        verbose=False,
    )


def zero_cache(model: Any, texts: int, past: int) -> Cache:
    """Keys and values of `past` tokens in each layer, all zero."""
    config = model.config
    shape = (texts, config.num_key_value_heads, past, config.head_dim)
    return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_hidden_layers)]


def run(
    directory: Path, prompts: Prompts, new_tokens: int
) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Greedy tokens and the prompts' logits, from the exported directory."""
    path = directory.with_name("member.onnx")
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    export(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    empty = zero_cache(model, texts=len(prompts), past=0)
    cache = [tensor.numpy() for pair in empty for tensor in pair]
    ids = np.array(prompts, dtype=np.int64)
    steps: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
    for _ in range(new_tokens):
        logits, *cache = session.run(None, dict(zip(names, [ids, *cache], strict=True)))
        ids = logits[:, -1].argmax(-1, keepdims=True)
        steps.append((logits, ids))
    return np.concatenate([ids for _, ids in steps], axis=1).tolist(), steps[0][0]


if __name__ == "__main__":
    sys.exit(check("onnxruntime", run))
