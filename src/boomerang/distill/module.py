"""One module that runs teacher and student in its own forward and returns sums of losses.

Wrappers for data parallelism and sharding break or copy everything that is not a module's own
forward; so what a step computes is all in here, and nothing per token leaves it. The teacher is no
submodule: it is never saved, never moved, never optimised.

Most steps train the plain student. With some probability a step's batch **enters** the student at
layer j with the teacher's boundary state, or **leaves** it at layer i and goes on through the
frozen teacher. Either way a member of the family runs, so its layers learn to work beside the
teacher's.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from ..layers import LayerMap, Member
from ..models.assembly import assemble
from ..models.parts import find_parts, layer_stack
from ..models.runner import LAST, Runner
from .losses import alignment_sum
from .prediction_loss import Prediction, Targets
from .recipe import Loss, Part
from .training_fields import refused_as_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


class LossSums(TypedDict):
    """What a forward pass returns; all tensors 0-dimensional but `alignment`.

    `prediction` and `alignment` carry the gradient. `prediction` is `ce`·CE plus the KL term with
    its weight, the latter as if it were over the targets: what divides it is the number of targets.
    `ce` and `kl` are the two sums without weights. `alignment` has an entry for each of the M+1
    pairs of `LayerMap.alignment`, 0 for those that were not computed. The counts belong to this
    batch alone.
    """

    prediction: Tensor
    ce: Tensor
    kl: Tensor
    alignment: Tensor
    ce_count: Tensor
    kl_count: Tensor
    alignment_count: Tensor


class DistillModule(nn.Module):
    """Teacher and student, and the losses between them (arXiv 2510.05064, section 3.2).

    Args:
        teacher: Frozen: put into evaluation mode, its parameters take no gradient.
        student: Trained in place.
        layers: Which teacher layers the student was cut from.
        loss: The weights; terms of weight 0 are not computed.
        switch: Probability that a step's batch enters the student late.
        mirror: Probability that it leaves the student early.
        freeze: Parts of the student that take no gradient.
        mode: `clean`: CE and KL over the same targets; `reference`: KL over all positions.
        seed: Decides the switch points, together with the step.

    Raises:
        ArchitectureError: The models do not have the layers that `layers` speaks of.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        layers: LayerMap,
        loss: Loss,
        *,
        switch: float = 0.0,
        mirror: float = 0.0,
        freeze: Iterable[Part] = (),
        mode: Literal["clean", "reference"] = "clean",
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_depth(teacher, layers.num_layers, "teacher")
        _check_depth(student, layers.num_student_layers, "student")
        self.student = student
        self.layers = layers
        self.loss = loss
        self.switch = switch
        self.mirror = mirror
        self.mode = mode
        self.seed = seed
        teacher.eval().requires_grad_(False)
        parts = find_parts(student)
        for part in freeze:
            for path in getattr(parts, part):
                student.get_submodule(path).requires_grad_(False)
        self._members = _Members(teacher, student, layers)

    @property
    def teacher(self) -> PreTrainedModel:
        """The frozen teacher."""
        return self._members.teacher.model

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the student's layers in the backward pass, as Trainer asks for it.

        Raises:
            RecipeError: The student does not support it.
        """
        with refused_as_recipe():
            self.student.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """The same under the name of earlier transformers versions."""
        with refused_as_recipe():
            self.student.gradient_checkpointing_enable(**kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the layers of both models, with the arguments of `torch.compile`.

        The rest, which differs from one route to the next, is left as it is, also where the whole
        module is handed to `torch.compile`.
        """
        for layer in (*layer_stack(self.student), *layer_stack(self.teacher)):
            layer.compile(*args, **kwargs)

    def route(self, step: int) -> Route:
        """The way the batch of an optimizer step takes; in evaluation always the plain student."""
        if not self.training:
            return draw_route(self.seed, step, self.layers.num_student_layers)
        return draw_route(self.seed, step, self.layers.num_student_layers, self.switch, self.mirror)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        aligned: Tensor | None = None,
        step: int = 0,
        patched: tuple[int, ...] | None = None,
    ) -> LossSums:
        """The losses of a batch, as sums.

        Args:
            input_ids: `[B, S]`.
            labels: `[B, S]`, unshifted; -100 where a token is no target.
            attention_mask: `[B, S]`, 1 for real tokens; None when all are.
            position_ids: `[B, S]`, starting again with each packed document.
            aligned: `[B, S]`, bool: the tokens whose states are aligned; by default all real ones.
            step: The optimizer step, which decides on the route.
            patched: The student layers that are patched in the member to run instead, for its
                cross-entropy alone and without gradients.

        Raises:
            LayerMapError: The student has no such layer.
        """
        inputs: dict[str, Tensor] = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        if aligned is None:
            aligned = None if attention_mask is None else attention_mask.bool()
        targets = Targets(labels, everywhere=self.mode == "reference")
        if patched is not None:
            return self._member_sums(patched, inputs, targets)
        route = self.route(step)
        with torch.no_grad():
            teacher_states = self._run_teacher(inputs, route)
        runner = self._members.runner(route.patched, route.enter)
        state_of = self._state_of(route) if self.loss.alignment else {}
        entry = teacher_states[self.layers.kept[route.enter]] if route.enter else None
        states = runner.run(inputs, state_of.values(), entry=entry)
        teacher = (self._members.teacher.head, teacher_states[LAST]) if self.loss.kl else None
        prediction = ce = kl = zero = torch.zeros((), device=labels.device)
        if self.loss.ce or self.loss.kl:
            problem = Prediction(runner.head, targets, self.loss, teacher)
            prediction, ce, kl = problem.sums(states[LAST])
        return {
            "prediction": prediction,
            "ce": ce if self.loss.ce else zero,
            "kl": kl,
            "alignment": self._alignment(states, state_of, teacher_states, aligned),
            "ce_count": targets.ce_count,
            "kl_count": targets.kl_count,
            "alignment_count": (torch.ones_like(labels) if aligned is None else aligned).sum(),
        }

    @torch.no_grad()
    def _member_sums(
        self, patched: tuple[int, ...], inputs: Mapping[str, Tensor], targets: Targets
    ) -> LossSums:
        """The cross-entropy of a member, and no other loss."""
        runner = self._members.runner(patched)
        states = runner.run(inputs)
        _, ce, _ = Prediction(runner.head, targets, self.loss).sums(states[LAST])
        zero = torch.zeros((), device=ce.device)
        return {
            "prediction": zero,
            "ce": ce,
            "kl": zero,
            "alignment": zero.expand(len(self.layers.alignment)),
            "ce_count": targets.ce_count,
            "kl_count": torch.zeros_like(targets.kl_count),
            "alignment_count": torch.zeros_like(targets.ce_count),
        }

    def _run_teacher(self, inputs: Mapping[str, Tensor], route: Route) -> dict[int, Tensor]:
        """The teacher's states that the losses and the entry need, by index."""
        wanted: set[int] = set()
        if self.loss.alignment:
            wanted.update(self.layers.alignment[pair][1] for pair in route.pairs)
        if route.enter:
            wanted.add(self.layers.kept[route.enter])
        if not wanted and not self.loss.kl:
            return {}
        return self._members.teacher.run(inputs, wanted)

    def _state_of(self, route: Route) -> dict[int, int]:
        """For each aligned pair the index of its state in the model that runs."""
        last = len(self.layers.alignment) - 1
        return {pair: LAST if pair == last else pair - route.enter for pair in route.pairs}

    def _alignment(
        self,
        states: Mapping[int, Tensor],
        state_of: Mapping[int, int],
        teacher_states: Mapping[int, Tensor],
        aligned: Tensor | None,
    ) -> Tensor:
        """Σ distance over tokens for each aligned pair, `[M+1]`."""
        pairs = self.layers.alignment
        sums = [torch.zeros((), device=self.student.device)] * len(pairs)
        for pair, index in state_of.items():
            target = teacher_states[pairs[pair][1]]
            sums[pair] = alignment_sum(states[index], target, aligned, self.loss.distance)
        return torch.stack(sums)


class _Members:
    """Members of a family in training, made when they are first needed.

    Unlike a `Family`'s they have no KV cache, so their layers need no index of their own: they are
    the very modules of teacher and student, with whatever wraps them (sharding, activation
    checkpointing, compilation).
    """

    def __init__(
        self, teacher: PreTrainedModel, student: PreTrainedModel, layers: LayerMap
    ) -> None:
        self.layers = layers
        self.teacher = Runner(teacher)
        self.student = Runner(student)
        self._made: dict[tuple[Member, int], Runner] = {}

    def runner(self, patched: tuple[int, ...], enter: int = 0) -> Runner:
        """The member with these student layers patched, from student layer `enter` on.

        Raises:
            LayerMapError: A student layer does not exist.
        """
        member = Member(self.layers, patched)
        if not patched:
            return self.student
        key = member, self.layers.kept[enter] if enter else 0
        if key not in self._made:
            self._made[key] = self._make(*key)
        # Dropout between the layers belongs to the student's training; layers keep their own mode.
        self._made[key].model.train(self.student.model.training)
        return self._made[key]

    def _make(self, member: Member, skipped: int) -> Runner:
        """A member without its first `skipped` layers."""
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
            # Tied if they are one matrix, not if they are equal: a new student's embedding still
            # equals the teacher's head, and soon differs.
            tied=matrix is not None and matrix.weight is table.weight,
        )
        return Runner(model, [layer_stack(owner)[index] for owner, index in layers])


def _check_depth(model: PreTrainedModel, expected: int, role: str) -> None:
    """Refuse a model with another number of layers than the kept layers give it."""
    found = len(layer_stack(model))
    if found != expected:
        raise ArchitectureError(
            f"has {found} layers but the kept layers make it {expected}", where=role
        )
