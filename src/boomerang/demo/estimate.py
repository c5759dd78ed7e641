"""How long a demo run is going to take, from one step of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..layers import LayerMap
from .settings import Settings, recipe


@dataclass(frozen=True)
class Estimate:
    """Seconds on this machine, as busy as it is.

    Args:
        distilling: For all steps.
        measuring: For every size, distilled and naive.
        tokens: Of the distillation.
    """

    distilling: float
    measuring: float
    tokens: int

    def __str__(self) -> str:
        """One line for people."""
        minutes = [
            f"{max(1, round(seconds / 60))}"
            for seconds in (self.distilling + self.measuring, self.distilling, self.measuring)
        ]
        return (
            f"About {minutes[0]} min on this machine: {minutes[1]} to distil on {self.tokens:,} "
            f"tokens ({self.tokens / self.distilling:,.0f} a second), {minutes[2]} to measure"
        )


def estimate(
    teacher: Path, layers: LayerMap, plan: Settings, text: Path, heldout_tokens: int
) -> Estimate:
    """Time a step of distillation and a pass of the teacher.

    Args:
        teacher: The teacher's directory.
        layers: The teacher layers that the student keeps.
        plan: The run.
        text: What it distils on.
        heldout_tokens: What is measured on, roughly.
    """
    import torch

    from ..checkpoint.directory import read_config
    from ..checkpoint.loading import load_model
    from ..distill.module import DistillModule
    from ..evaluate.shared_layers import walk
    from ..student import cut

    # Where Trainer puts the models; measuring runs on the CPU.
    accelerated = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if accelerated else torch.device("cpu")
    assert device is not None
    model = load_model(teacher, dtype=torch.float32, device=device)
    how = recipe(plan, teacher, teacher, teacher, text).resolved(read_config(teacher))
    module = DistillModule(
        model, copy.deepcopy(cut(model, layers)), layers, how.loss, freeze=how.freeze
    ).train()
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(0, vocabulary, (plan.batch_size, plan.sequence_length), device=device)

    def step(rows: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            sums = module(input_ids=ids[:rows], labels=ids[:rows])
        (sums["prediction"] + sums["alignment"].sum()).backward()
        if accelerated:
            torch.accelerator.synchronize()

    @torch.no_grad()
    def measure() -> None:
        model(ids.cpu()).logits.log_softmax(-1)

    step(1)
    distilling = _seconds(lambda: step(plan.batch_size)) * plan.steps
    torch.nn.Module.to(model, "cpu")
    sources = [member.sources for member in layers.members(plan.order)]
    # Layers that sizes share run once; heads do not, and cost about as much as the rest.
    passed = sum(len(sources[visit.path]) - visit.skip for visit in walk(sources))
    passes = max(passed / layers.num_layers, len(sources) / 2)
    measuring = _seconds(measure) / ids.numel() * heldout_tokens * passes * 2
    return Estimate(distilling, measuring, plan.tokens)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
