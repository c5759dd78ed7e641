"""How alike hidden states are, as sums over tokens in fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-8
# Tokens that are looked at in fp32 at a time.
_TOKENS = 256


def cosine_sum(a: Tensor, b: Tensor) -> float:
    """Σ cos(a, b) over tokens.

    Args:
        a: `[K, D]`.
        b: `[K, D]`, on any device.
    """
    pairs = zip(a.split(_TOKENS), b.to(a.device).split(_TOKENS), strict=True)
    return float(
        sum(
            F.cosine_similarity(x.float(), y.float(), dim=-1, eps=_EPSILON).double().sum()
            for x, y in pairs
        )
    )


def relative_error_sum(a: Tensor, b: Tensor) -> float:
    """Σ ‖a-b‖²/‖b‖² over tokens; the arguments are those of `cosine_sum`."""
    pairs = zip(a.split(_TOKENS), b.to(a.device).split(_TOKENS), strict=True)
    total = 0.0
    for x, y in pairs:
        y = y.float()
        error = (x.float() - y).square().sum(-1)
        total += float((error / y.square().sum(-1).clamp_min(_EPSILON)).double().sum())
    return total


def cosine_matrix_sum(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Σ cos(a_i, b_j) over tokens for all pairs.

    Args:
        a: n states `[K, D]`.
        b: m states `[K, D]`.

    Returns:
        `[n, m]`, float64, on the CPU.
    """
    total = torch.zeros(len(a), len(b), dtype=torch.float64)
    for start in range(0, len(a[0]), _TOKENS):
        part = slice(start, start + _TOKENS)
        left, right = (_directions(states, part) for states in (a, b))
        total += (left @ right.T).double().cpu()
    return total


def _directions(states: list[Tensor], part: slice) -> Tensor:
    """States of length one each, all tokens of a state in one row: `[n, T * D]`, fp32."""
    device = states[0].device
    rows = [
        F.normalize(state[part].to(device, torch.float32), dim=-1, eps=_EPSILON).flatten()
        for state in states
    ]
    return torch.stack(rows)
