"""What a row says of the member that it is about."""

from __future__ import annotations

from dataclasses import dataclass

from ..layers import Member
from .results import Row


@dataclass(frozen=True)
class Subject:
    """A member of a family, as rows name it.

    Attributes:
        member: Which member.
        parameters: Its parameters, a tied head counted once.
        bytes: Bytes they take in memory.
        teacher: Content hash of the teacher.
        student: Content hash of the student.
        series: `family`, or the name of a baseline.
    """

    member: Member
    parameters: int
    bytes: int
    teacher: str
    student: str
    series: str

    def row(self, task: str, metric: str, value: float, stderr: float | None, *, items: int) -> Row:
        """A row of this member.

        Args:
            task: What was measured on.
            metric: What was measured.
            value: The value.
            stderr: Its standard error, or None.
            items: How many items it rests on.
        """
        return Row(
            member=self.member.patched,
            patch=self.member.patch,
            order=self.member.order,
            num_layers=self.member.num_layers,
            parameters=self.parameters,
            bytes=self.bytes,
            task=task,
            metric=metric,
            value=value,
            stderr=stderr,
            items=items,
            teacher=self.teacher,
            student=self.student,
            series=self.series,
        )
