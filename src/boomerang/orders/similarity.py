"""How alike the states between layers are, within a teacher and across to its student."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..evaluate.batches import Batch, text_batches
from ..family import Family
from ..models.runner import Runner
from ..text.windows import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EPSILON = 1e-8
# Tokens that are looked at in fp32 at a time.
_TOKENS = 256


@dataclass(frozen=True)
class Similarity:
    """States compared, means over all tokens of a text.

    State 0 is the embedding output, state i the output of layer i-1, all before the final norm.

    Attributes:
        cosine: Shape (n, m): mean cosine of every one of n states with every one of m states.
        pairs: The pairs (of the n, of the m) that belong together.
        error: For each pair the mean of ‖a-b‖²/‖b‖².
    """

    cosine: NDArray[np.float64]
    pairs: tuple[tuple[int, int], ...]
    error: tuple[float, ...]

    def of_pairs(self) -> list[tuple[float, float]]:
        """For each pair its mean cosine and relative squared error."""
        cosines = (float(self.cosine[pair]) for pair in self.pairs)
        return list(zip(cosines, self.error, strict=True))

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        pairs = zip(self.pairs, self.of_pairs(), strict=True)
        return {
            "cosine": self.cosine.tolist(),
            "pairs": [
                {"states": list(pair), "cosine": cosine, "relative_squared_error": error}
                for pair, (cosine, error) in pairs
            ],
        }


@torch.no_grad()
def similarity(
    teacher: PreTrainedModel, text: Text, family: Family | None = None
) -> tuple[Similarity, Similarity | None]:
    """Compare the teacher's states with each other, and the student's with the teacher's.

    The states of all layers are held for one batch of tokens at a time.

    Args:
        teacher: In evaluation mode.
        text: What they run over.
        family: The family of that teacher; None for the teacher alone.

    Returns:
        The teacher's states, with the states before and after each layer as pairs; and the
        student's with the teacher's, with the output of each student layer and that of its block as
        pairs. The second is None without a family.
    """
    runner = Runner(teacher)
    student = None if family is None else Runner(family.student)
    blocks = () if family is None else family.layers.blocks
    inner = _Sums(pairwise(range(runner.num_layers + 1)))
    across = _Sums((i + 1, block.stop) for i, block in enumerate(blocks))
    for batch in text_batches(text, teacher):
        theirs = layer_states(runner, batch)
        inner.add(theirs, theirs)
        if student is not None:
            across.add(layer_states(student, batch), theirs)
    return inner.means(), None if student is None else across.means()


def layer_states(runner: Runner, batch: Batch) -> list[Tensor]:
    """The states before the first layer and after each that predict targets, `[R, D]` each.

    The last one is before the final norm, unlike that of transformers' `hidden_states`.
    """
    every = range(runner.num_layers + 1)
    states = runner.run(batch.inputs, every)
    return [batch.read(states.pop(index)) for index in every]


def cosine_sum(a: Tensor, b: Tensor) -> float:
    """Σ cos(a, b) over tokens, in fp32.

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


class _Sums:
    """Sums over tokens of what `Similarity` has the means of."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        self.pairs = tuple(pairs)
        self.cosine = torch.zeros((), dtype=torch.float64)
        self.error = [0.0] * len(self.pairs)
        self.count = 0

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Add the states `[K, D]` of K tokens."""
        self.cosine = self.cosine + _cosine_matrix_sum(a, b)
        for number, (i, j) in enumerate(self.pairs):
            self.error[number] += _relative_error_sum(a[i], b[j])
        self.count += len(a[0])

    def means(self) -> Similarity:
        """The sums divided by the number of tokens."""
        errors = tuple(error / self.count for error in self.error)
        return Similarity((self.cosine / self.count).numpy(), self.pairs, errors)


def _relative_error_sum(a: Tensor, b: Tensor) -> float:
    """Σ ‖a-b‖²/‖b‖² over tokens; the arguments are those of `cosine_sum`."""
    total = 0.0
    for x, y in zip(a.split(_TOKENS), b.to(a.device).split(_TOKENS), strict=True):
        y = y.float()
        error = (x.float() - y).square().sum(-1)
        total += float((error / y.square().sum(-1).clamp_min(_EPSILON)).double().sum())
    return total


def _cosine_matrix_sum(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Σ cos(a_i, b_j) over tokens for all pairs of states, `[n, m]`, float64, on the CPU."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64)
    for start in range(0, len(a[0]), _TOKENS):
        part = slice(start, start + _TOKENS)
        left, right = (_directions(states, part) for states in (a, b))
        total += (left @ right.T).double().cpu()
    return total


def _directions(states: Sequence[Tensor], part: slice) -> Tensor:
    """States of length one each, all tokens of a state in one row: `[n, T * D]`, fp32."""
    device = states[0].device
    rows = [
        F.normalize(state[part].to(device, torch.float32), dim=-1, eps=_EPSILON).flatten()
        for state in states
    ]
    return torch.stack(rows)
