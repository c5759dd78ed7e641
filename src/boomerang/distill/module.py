"""One module that runs teacher and student in its own forward and returns sums of losses.

Wrappers for data parallelism and sharding break or copy everything that is not a module's own
forward; so what a step computes is all in here, and nothing per token leaves it. The teacher is no
submodule: it is never saved, never moved, never optimised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from ..architecture.modules import find_parts, layer_stack
from ..architecture.shell import assemble
from ..errors import ArchitectureError
from ..layers import LayerMap
from . import losses
from .recipe import Loss, Part
from .routes import Route, draw_route
from .runner import LAST, Runner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LossSums(TypedDict):
    """What a forward pass returns; all tensors 0-dimensional but `alignment`.

    `alignment` has an entry for each of the M+1 pairs of `LayerMap.alignment`, 0 for those that
    were not computed. The counts belong to this batch alone.
    """

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
        switch: Probability that a step's batch enters the student late (see `routes`).
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
        self._teacher = Runner(teacher)
        # Members on switch points, made when first needed: after Trainer has placed the student.
        self._runners: dict[Route, Runner] = {}

    @property
    def teacher(self) -> PreTrainedModel:
        """The frozen teacher."""
        return self._teacher.model

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute the student's layers in the backward pass, as Trainer asks for it."""
        self.student.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """The same under the name of earlier transformers versions."""
        self.student.gradient_checkpointing_enable(**kwargs)

    def route(self, step: int) -> Route:
        """The way the batch of an optimizer step takes; in evaluation always the plain student."""
        if not self.training:
            return draw_route(self.seed, step, self.layers.num_student_layers)
        return draw_route(self.seed, step, self.layers.num_student_layers, self.switch, self.mirror)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        step: int = 0,
    ) -> LossSums:
        """The losses of a batch, as sums.

        Args:
            input_ids: `[B, S]`.
            labels: `[B, S]`, unshifted; -100 where a token is no target.
            attention_mask: `[B, S]`, 1 for real tokens; None when all are.
            position_ids: `[B, S]`, starting again with each packed document.
            step: The optimizer step, which decides on the route.
        """
        inputs: dict[str, Tensor] = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        route = self.route(step)
        with torch.no_grad():
            teacher_logits, teacher_states = self._run_teacher(inputs, route)
        runner = self._runner(route)
        state_of = self._state_of(route) if self.loss.alignment else {}
        logits, states = runner.run(
            inputs,
            state_of.values(),
            logits=bool(self.loss.ce or self.loss.kl),
            entry=teacher_states[self.layers.kept[route.enter]] if route.enter else None,
        )
        targets = losses.shifted(labels)
        is_target = targets != losses.IGNORED
        compared = is_target if self.mode == "clean" else torch.ones_like(is_target)
        is_real = torch.ones_like(is_target) if attention_mask is None else attention_mask.bool()
        # Losses are computed in fp32, also where autocast would choose less.
        with torch.autocast(input_ids.device.type, enabled=False):
            ce, kl = self._prediction_losses(logits, teacher_logits, targets, compared)
            mask = None if attention_mask is None else is_real
            alignment = self._alignment(states, state_of, teacher_states, mask)
        return {
            "ce": ce,
            "kl": kl,
            "alignment": alignment,
            "ce_count": is_target.sum(),
            "kl_count": compared.sum(),
            "alignment_count": is_real.sum(),
        }

    def _run_teacher(
        self, inputs: Mapping[str, Tensor], route: Route
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        wanted: set[int] = set()
        if self.loss.alignment:
            wanted.update(self.layers.alignment[pair][1] for pair in route.pairs)
        if route.enter:
            wanted.add(self.layers.kept[route.enter])
        if not wanted and not self.loss.kl:
            return None, {}
        return self._teacher.run(inputs, wanted, logits=bool(self.loss.kl))

    def _state_of(self, route: Route) -> dict[int, int]:
        """For each aligned pair the index of its state in the model that runs."""
        last = len(self.layers.alignment) - 1
        return {pair: LAST if pair == last else pair - route.enter for pair in route.pairs}

    def _runner(self, route: Route) -> Runner:
        if route not in self._runners:
            self._runners[route] = self._make_runner(route)
        runner = self._runners[route]
        for index, layer in enumerate(runner.layers):
            # Dropout belongs to the student's training; the teacher's layers stay as they are.
            layer.train(self.training and index < route.leave - route.enter)
        return runner

    def _make_runner(self, route: Route) -> Runner:
        if route.name == "student":
            return Runner(self.student)
        kept, num_layers = self.layers.kept, self.layers.num_layers
        own = range(route.enter, route.leave)
        rest = range(kept[route.leave], num_layers) if route.name == "mirror" else range(0)
        last = self.teacher if rest else self.student
        output: Any = last.get_output_embeddings()
        table: Any = self.student.get_input_embeddings()
        model = assemble(
            self.teacher,
            [*((self.student, i) for i in own), *((self.teacher, t) for t in rest)],
            [*(kept[i] for i in own), *rest],
            embedding=self.student,
            head=last,
            # By what is one matrix, not by what is equal: a new student's embedding still equals
            # the teacher's head, and soon differs.
            tied=output is not None and output.weight is table.weight,
        )
        model.train(self.training)
        return Runner(model, enters=route.enter > 0)

    def _prediction_losses(
        self,
        logits: Tensor | None,
        teacher_logits: Tensor | None,
        targets: Tensor,
        compared: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """CE and KL over the positions `compared`, which include all targets."""
        ce = kl = torch.zeros((), device=targets.device)
        if logits is None:
            return ce, kl
        logits = logits[compared]
        temperature = self.loss.temperature
        log_probs = losses.log_probabilities(logits)
        if self.loss.ce:
            ce = losses.cross_entropy_sum(log_probs, targets[compared])
        if teacher_logits is not None:
            # At τ = 1 both terms share the student's log-probabilities.
            if temperature != 1.0:
                log_probs = losses.log_probabilities(logits, temperature)
            reference = losses.log_probabilities(teacher_logits[compared], temperature)
            kl = losses.kl_sum(log_probs, reference, temperature)
        return ce, kl

    def _alignment(
        self,
        states: Mapping[int, Tensor],
        state_of: Mapping[int, int],
        teacher_states: Mapping[int, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        pairs = self.layers.alignment
        sums = [torch.zeros((), device=self.student.device)] * len(pairs)
        for pair, index in state_of.items():
            target = teacher_states[pairs[pair][1]]
            sums[pair] = losses.alignment_sum(states[index], target, mask, self.loss.distance)
        return torch.stack(sums)


def _check_depth(model: PreTrainedModel, expected: int, role: str) -> None:
    found = len(layer_stack(model))
    if found != expected:
        raise ArchitectureError(
            f"has {found} layers where the kept layers speak of {expected}", where=role
        )
