"""Which teacher layers a student's tensors look like: a proposal with its confidence, no more.

A layer that was never trained is bitwise the teacher's. A trained one is usually still nearest to
the one it was cut from; dynamic programming finds the nearest list that increases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .convert import FLOATS, read_exactly, to_float32
from .directory import Checkpoint
from .header import DTYPE_BITS, Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    _Sample = dict[str, NDArray[np.float32]]

# From each tensor, so many stretches of so many numbers are compared, spread evenly.
_STRETCHES, _NUMBERS = 4, 1024
# The most matrices of a layer, which may have hundreds of experts.
_MATRICES = 16
# A list is unclear when for some layer the next best is hardly further away.
_CLEAR = 0.9
_NEVER = float("inf")


@dataclass(frozen=True)
class Proposal:
    """The teacher layers that a student's are nearest to.

    Args:
        kept: For each student layer, the teacher layer; increasing, the first one 0.
        distance: The mean relative squared difference to these, over layers and tensors.
        weakest: The student layer for which the next best list is nearest.
        nearest: That layer's own distance in the list.
        next_best: `nearest`, plus what the whole best list with another layer there costs more;
            None when there is no other list.
        certain: Whether every student layer has a matrix bitwise equal, as far as sampled, to the
            one in that teacher layer, and to no other's.
    """

    kept: tuple[int, ...]
    distance: float
    weakest: int
    nearest: float
    next_best: float | None
    certain: bool

    @property
    def clear(self) -> bool:
        """Whether the list is certain, or clearly nearer than any other."""
        return self.certain or self.next_best is None or self.nearest < _CLEAR * self.next_best

    def __str__(self) -> str:
        """What the tensors say, as the predicate of a sentence about them."""
        listed = ",".join(map(str, self.kept))
        if self.certain:
            return f"are bitwise those of teacher layers {listed}"
        found = (
            f"are nearest to teacher layers {listed} (mean relative squared difference "
            f"{self.distance:.2g}"
        )
        if self.next_best is not None:
            found += (
                f"; least certain is student layer {self.weakest}, {self.nearest:.2g} away where "
                f"the next best list has {self.next_best:.2g}"
            )
        return f"{found})" if self.clear else f"{found}: no clear answer)"


def propose(teacher: Checkpoint, student: Checkpoint) -> Proposal | None:
    """The kept layers that the tensors of two checkpoints suggest; None if they are not comparable.

    Raises:
        CheckpointError: A file cannot be read.
    """
    theirs = [_sample(teacher, j) for j in range(len(teacher.layout.layers))]
    ours = [_sample(student, i) for i in range(len(student.layout.layers))]
    if len(ours) > len(theirs):
        return None
    costs = [[_distance(a, b) for b in theirs] for a in ours]
    if any(cost == _NEVER for row in costs for cost in row):
        return None
    found = tuple(layer for layer in (_equal_layer(a, theirs) for a in ours) if layer is not None)
    certain = found[:1] == (0,) and len(found) == len(ours) and sorted(set(found)) == list(found)
    total, kept = _best(costs)
    if certain:
        total, kept = sum(row[j] for row, j in zip(costs, found, strict=True)), found
    changes = {i: _best(costs, without=(i, j))[0] - total for i, j in enumerate(kept)}
    weakest = min(changes, key=lambda i: changes[i])
    nearest = costs[weakest][kept[weakest]]
    return Proposal(
        kept=kept,
        distance=total / len(kept),
        weakest=weakest,
        nearest=nearest,
        next_best=None if changes[weakest] == _NEVER else nearest + changes[weakest],
        certain=certain,
    )


def _sample(checkpoint: Checkpoint, index: int) -> _Sample:
    """Numbers of a layer's matrices, by the matrix's name; vectors are much alike in all layers."""
    matrices = {
        name: tensor
        for name, tensor in checkpoint.layer(index).items()
        if tensor.dtype in FLOATS and len(tensor.shape) > 1 and tensor.elements
    }
    return {name: _numbers(matrices[name]) for name in sorted(matrices)[:_MATRICES]}


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    import numpy as np

    width = DTYPE_BITS[tensor.dtype] // 8
    count = min(_NUMBERS, tensor.elements)
    last = tensor.elements - count
    begins = sorted({round(last * i / (_STRETCHES - 1)) for i in range(_STRETCHES)})
    with tensor.file.open("rb", buffering=0) as file:
        parts = [
            read_exactly(file.fileno(), tensor, begin * width, count * width) for begin in begins
        ]
    return np.concatenate([to_float32(part, tensor.dtype) for part in parts])


def _distance(ours: _Sample, theirs: _Sample) -> float:
    """The relative squared difference of two layers, the mean over their matrices."""
    import numpy as np

    if not ours or any(n not in theirs or theirs[n].shape != ours[n].shape for n in ours):
        return _NEVER
    found = []
    for name, numbers in ours.items():
        a, b = numbers.astype(np.float64), theirs[name].astype(np.float64)
        # The mean of both scales favours no layer and copes with a matrix of zeros.
        scale = (np.square(a).sum() + np.square(b).sum()) / 2
        found.append(np.square(a - b).sum() / scale if scale else 0.0)
    value = float(np.mean(found))
    return value if np.isfinite(value) else _NEVER


def _equal_layer(ours: _Sample, theirs: Sequence[_Sample]) -> int | None:
    """The one teacher layer that has a matrix of a student layer, bit by bit as far as sampled."""
    found = set()
    for name, numbers in ours.items():
        same = [j for j, each in enumerate(theirs) if each[name].tobytes() == numbers.tobytes()]
        # A matrix that several layers have, such as zeros, proves nothing.
        if len(same) == 1:
            found.add(same[0])
    return found.pop() if len(found) == 1 else None


def _best(
    costs: Sequence[Sequence[float]], without: tuple[int, int] | None = None
) -> tuple[float, tuple[int, ...]]:
    """The cheapest increasing list that starts with 0, and its cost.

    `costs` has a row for each student layer and a column for each teacher layer. `without` is a
    pair of them that the list must not have.
    """
    none: tuple[float, tuple[int, ...]] = (_NEVER, ())
    # For each teacher layer, the cheapest list that ends with it; a list of one layer is (0,).
    ending = [none] * len(costs[0])
    if without != (0, 0):
        ending[0] = (costs[0][0], (0,))
    for i, row in enumerate(costs[1:], 1):
        before, longer = none, [none] * len(row)
        for j, cost in enumerate(row):
            if before[0] < _NEVER and without != (i, j):
                longer[j] = (before[0] + cost, (*before[1], j))
            before = min(before, ending[j])
        ending = longer
    return min(ending)
