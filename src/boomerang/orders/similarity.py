"""How alike the states between layers are, within a teacher and across to its student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..family import Family
from ..text.windows import Text
from .distance import cosine_matrix_sum, relative_error_sum
from .running import batches, layer_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        return [
            (float(self.cosine[pair]), error)
            for pair, error in zip(self.pairs, self.error, strict=True)
        ]


def similarity(
    teacher: PreTrainedModel, text: Text, family: Family | None = None
) -> tuple[Similarity, Similarity | None]:
    """The teacher's states among themselves, and the student's against the teacher's.

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
    inner, across = _Sums(), _Sums()
    with torch.no_grad():
        for batch in batches(text.windows, teacher.device):
            theirs = layer_states(teacher, batch)
            inner.add(theirs, theirs, list(pairwise(range(len(theirs)))))
            if family is not None:
                ours = layer_states(family.student, batch)
                across.add(ours, theirs, block_ends(family))
    return inner.means(), None if family is None else across.means()


def block_ends(family: Family) -> list[tuple[int, int]]:
    """For every student layer the state after it, and the teacher's state after its block."""
    return [(i + 1, block.stop) for i, block in enumerate(family.layers.blocks)]


class _Sums:
    def __init__(self) -> None:
        self.cosine: Tensor | float = 0.0
        self.pairs: Sequence[tuple[int, int]] = ()
        self.error: list[float] = []
        self.count = 0

    def add(self, a: list[Tensor], b: list[Tensor], pairs: Sequence[tuple[int, int]]) -> None:
        self.cosine = self.cosine + cosine_matrix_sum(a, b)
        errors = [relative_error_sum(a[i], b[j]) for i, j in pairs]
        self.error = [x + y for x, y in zip(self.error or [0.0] * len(pairs), errors, strict=True)]
        self.pairs = pairs
        self.count += len(a[0])

    def means(self) -> Similarity:
        assert isinstance(self.cosine, Tensor)
        return Similarity(
            (self.cosine / self.count).numpy(),
            tuple(self.pairs),
            tuple(error / self.count for error in self.error),
        )
