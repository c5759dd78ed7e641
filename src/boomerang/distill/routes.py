"""Switch points: the way a step's batch takes through student and teacher.

Most steps train the plain student. With some probability a batch **enters** the student at layer j
with the teacher's boundary state instead, or, the mirror image, **leaves** it at layer i and goes
on through the frozen teacher. Either way the model that runs is a member of the family, so its
layers learn to work next to the teacher's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """The student layers `enter ... leave-1` run; the teacher's stand before and after them.

    Args:
        enter: The first student layer that runs.
        leave: One past the last student layer that runs.
        num_student_layers: M.
    """

    enter: int
    leave: int
    num_student_layers: int

    @property
    def name(self) -> str:
        """`student`, `switch` (enters late) or `mirror` (leaves early)."""
        if self.enter:
            return "switch"
        return "student" if self.leave == self.num_student_layers else "mirror"

    @property
    def patched(self) -> tuple[int, ...]:
        """The student layers in whose place the teacher's blocks stand."""
        return (*range(self.enter), *range(self.leave, self.num_student_layers))

    @property
    def pairs(self) -> tuple[int, ...]:
        """The aligned pairs (positions in `LayerMap.alignment`) whose student state is computed.

        Pair i is the input of student layer i, and pair M the state after the final norm. The state
        with which the batch enters is the teacher's own.
        """
        first = self.enter + 1 if self.enter else 0
        return tuple(range(first, self.leave + 1))


def draw_route(
    seed: int, step: int, num_student_layers: int, switch: float = 0.0, mirror: float = 0.0
) -> Route:
    """The route of a step's whole batch.

    It follows from seed and step alone: every process draws the same one, a resumed run repeats it,
    and it does not depend on how the batch is split into micro-batches.

    Args:
        seed: The run's seed.
        step: The optimizer step, from 0.
        num_student_layers: M; the switch point is uniform in 1 ... M-1.
        switch: Probability to enter the student late.
        mirror: Probability to leave it early.
    """
    count = num_student_layers
    generator = random.Random(f"{seed}/{step}")
    draw = generator.random()
    if draw >= switch + mirror or count < 2:
        return Route(0, count, count)
    point = generator.randrange(1, count)
    return Route(point, count, count) if draw < switch else Route(0, point, count)
