"""Members of a family that is being trained, run in place over the live layers of both models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..layers import LayerMap, Member
from ..models.modules import layer_stack
from ..models.runner import Runner
from ..models.shell import assemble

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Members:
    """Makes members when they are first asked for, and keeps them.

    Unlike those of a `Family` they have no KV cache, so their layers need no place of their own in
    one: they are the very modules of teacher and student, with whatever wraps them (sharding,
    activation checkpointing, compilation).

    Args:
        teacher: The live teacher.
        student: The live student.
        layers: The teacher layers the student was cut from.
    """

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, layers: LayerMap
    ) -> None:
        self.layers = layers
        self.teacher = Runner(teacher)
        self.student = Runner(student)
        self._made: dict[tuple[Member, int], Runner] = {}

    def runner(self, patched: tuple[int, ...], enter: int = 0) -> Runner:
        """A member that has the student's embedding, or that of its first layer's owner.

        Args:
            patched: The student layers that are patched.
            enter: The student layer it begins with; those before it and their blocks are left out.

        Raises:
            LayerMapError: There is no such student layer.
        """
        member = Member(self.layers, patched)
        if not patched:
            return self.student
        skipped = self.layers.kept[enter] if enter else 0
        key = member, skipped
        if key not in self._made:
            self._made[key] = self._make(member, skipped)
        made = self._made[key]
        # Dropout between the layers belongs to the student's training; the layers know their own.
        made.model.train(self.student.model.training)
        return made

    def _make(self, member: Member, skipped: int) -> Runner:
        owners = {"teacher": self.teacher.model, "student": self.student.model}
        layers = [(owners[owner], index) for owner, index in member.sources[skipped:]]
        first, last = layers[0][0], layers[-1][0]
        matrix: Any = last.get_output_embeddings()
        table: Any = first.get_input_embeddings()
        model = assemble(
            self.teacher.model,
            layers,
            member.teacher_layers[skipped:],
            embedding=first,
            head=last,
            # By what is one matrix, not by what is equal: a new student's embedding still equals
            # the teacher's head, and soon differs.
            tied=matrix is not None and matrix.weight is table.weight,
        )
        return Runner(model, [layer_stack(owner)[index] for owner, index in layers])
