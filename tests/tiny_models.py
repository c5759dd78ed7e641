"""Tiny random models of many architectures, made on the fly.

Width 32, 4 heads of 8, vocabulary 97, 64 positions. Weights are drawn far from any default (norms
and biases too), so that every single tensor changes the logits and a lost one shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from boomerang import LayerMap
from boomerang.student import cut

TOKENS: dict[str, Any] = {
    "vocab_size": 97,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHAPE: dict[str, Any] = TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
WINDOW = 8
NOISE = 0.2


def _llama(num_layers: int) -> PretrainedConfig:
    return LlamaConfig(**GROUPED, num_hidden_layers=num_layers)


def _qwen2(num_layers: int) -> PretrainedConfig:
    """Full attention in the first half, a sliding window in the second."""
    return Qwen2Config(
        **GROUPED,
        num_hidden_layers=num_layers,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=num_layers // 2,
    )


def _qwen3(num_layers: int) -> PretrainedConfig:
    return Qwen3Config(
        **GROUPED, num_hidden_layers=num_layers, head_dim=8, tie_word_embeddings=True
    )


def _gpt_neox(num_layers: int) -> PretrainedConfig:
    return GPTNeoXConfig(**SHAPE, num_hidden_layers=num_layers)


def _mistral(num_layers: int) -> PretrainedConfig:
    return MistralConfig(**GROUPED, num_hidden_layers=num_layers, sliding_window=WINDOW)


def _gpt2(num_layers: int) -> PretrainedConfig:
    return GPT2Config(
        **TOKENS,
        n_embd=32,
        n_head=4,
        n_positions=64,
        n_layer=num_layers,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _olmo2(num_layers: int) -> PretrainedConfig:
    return Olmo2Config(**GROUPED, num_hidden_layers=num_layers)


def _gemma3_text(num_layers: int) -> PretrainedConfig:
    """Every third layer with full attention, the others with a sliding window."""
    types = ["full_attention" if i % 3 == 2 else "sliding_attention" for i in range(num_layers)]
    return Gemma3TextConfig(
        **GROUPED,
        num_hidden_layers=num_layers,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        layer_types=types,
    )


def _phi3(num_layers: int) -> PretrainedConfig:
    return Phi3Config(**GROUPED, num_hidden_layers=num_layers)


def _qwen3_moe(num_layers: int) -> PretrainedConfig:
    """Layers 1, 4, 7, ... are dense, the others have 4 experts of which 2 are used."""
    return Qwen3MoeConfig(
        **GROUPED,
        num_hidden_layers=num_layers,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        mlp_only_layers=list(range(1, num_layers, 3)),
    )


ARCHITECTURES: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gpt_neox": _gpt_neox,
    "mistral": _mistral,
    "gpt2": _gpt2,
    "olmo2": _olmo2,
    "gemma3_text": _gemma3_text,
    "phi3": _phi3,
    "qwen3_moe": _qwen3_moe,
}


def tiny_config(name: str, num_layers: int = 6, tied: bool | None = None) -> PretrainedConfig:
    """The config of a tiny model.

    Args:
        name: A key of `ARCHITECTURES`, which is the model type.
        num_layers: The number of layers.
        tied: Whether the head is the embedding; None leaves the architecture's own choice (tied
            for qwen3, gpt2 and gemma3_text).
    """
    config = ARCHITECTURES[name](num_layers)
    if tied is not None:
        config.tie_word_embeddings = tied
    return config


def tiny_model(
    name: str, num_layers: int = 6, seed: int = 0, tied: bool | None = None
) -> PreTrainedModel:
    """A tiny random model in float32 and eval mode; the global random state is left alone.

    Args:
        name: A key of `ARCHITECTURES`.
        num_layers: The number of layers.
        seed: Two models of one name and seed are equal; other seeds give other weights.
        tied: As in `tiny_config`.
    """
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(tiny_config(name, num_layers, tied))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = NOISE * torch.randn(parameter.shape, generator=generator)
            # Norm weights and biases stay around the 1 or 0 their architecture starts them at.
            parameter.copy_(parameter + noise if parameter.ndim == 1 else noise)
    return model.eval()


def tiny_pair(
    name: str, tied: bool | None = None, kept: tuple[int, ...] = (0, 1, 3, 5), num_layers: int = 7
) -> tuple[PreTrainedModel, PreTrainedModel, LayerMap]:
    """A teacher, a student of the right shape with weights of its own, and their plan."""
    layers = LayerMap(kept, num_layers)
    teacher = tiny_model(name, num_layers, tied=tied)
    student = copy.deepcopy(cut(teacher, layers))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return teacher, student, layers
