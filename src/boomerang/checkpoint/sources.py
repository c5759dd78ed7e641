"""A teacher and its student on disk, as a user names them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..layers import FIRST_TO_LAST, LAST_TO_FIRST, LayerMap, Member, Order
from .directory import Checkpoint
from .identity import Identity, identify
from .member_plan import Pair
from .pairing import Pairing, pair_up
from .resolve import Reference, resolve


@dataclass(frozen=True)
class FamilyOnDisk:
    """Two checkpoints that span a family, opened without reading a weight.

    Args:
        teacher: The teacher as the user named it.
        student: The student as the user named it.
        pair: What their files hold.
        pairing: What the two are to each other.
    """

    teacher: str
    student: str
    pair: Pair
    pairing: Pairing

    @classmethod
    def open(
        cls, teacher: str | Path, student: str | Path, *, keep: Iterable[int] | None = None
    ) -> FamilyOnDisk:
        """Resolve, read and check a teacher and a student.

        Args:
            teacher: A directory, or a hub id with or without `@revision`.
            student: The same.
            keep: The teacher layers it keeps, where it has no `student_config.json`.

        Raises:
            CheckpointError: One of them cannot be read or is broken, or the kept layers are not
                known.
            LayerMapError, ArchitectureError, ConfigError: They do not fit each other, or their
                architecture is not supported.
        """
        teacher_directory, student_directory = resolve(teacher), resolve(student)
        pairing = pair_up(teacher_directory, student_directory, keep)
        opened = Checkpoint.open(teacher_directory, expand=True)
        pair = Pair(opened, Checkpoint.open(student_directory), pairing.layers)
        return cls(str(teacher), str(student), pair, pairing)

    @property
    def order(self) -> Order:
        """The order to patch in: the one recorded with the student, else the paper's."""
        return self.pairing.order

    @property
    def layers(self) -> LayerMap:
        """The teacher layers the student was cut from."""
        return self.pair.layers

    @property
    def name(self) -> str:
        """The teacher's name, without owner, path or revision."""
        return Path(Reference.parse(self.teacher).name).resolve().name

    @property
    def directories(self) -> tuple[Path, Path]:
        """Where teacher and student are."""
        return self.pair.teacher.directory, self.pair.student.directory

    def identities(self) -> tuple[Identity, Identity]:
        """Who teacher and student are."""
        return (
            identify(self.teacher, self.pair.teacher.directory, self.pair.teacher.tensors.values()),
            identify(self.student, self.pair.student.directory, self.pair.student.tensors.values()),
        )

    def members(self, order: Order | None = None) -> tuple[Member, ...]:
        """Every member along an order, by default the family's own; the student first."""
        return self.layers.members(self.order if order is None else order)


def recorded_order(member: Member, order: Order) -> str | list[int] | None:
    """How to write down the order a member was chosen along: by name, or as the list itself."""
    if member.order is None:
        return None
    if isinstance(order, str) and order in (LAST_TO_FIRST, FIRST_TO_LAST):
        return order
    return list(member.layers.order(order))
