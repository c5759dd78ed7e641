"""Steps that must not be applied."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import boomerang
from boomerang.checkpoint.loading import load_model
from boomerang.distill.finite_steps import StepGuard
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Recipe
from boomerang.errors import TrainingError
from test_distill_checkpoints import assert_equal, trainer_in, weights


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the loss of a micro-batch of a step something else."""
    forward = DistillModule.forward

    def spoil_at(step: int, micro_batch: int, change: Callable[[torch.Tensor], Any]) -> None:
        seen: list[int] = []

        @functools.wraps(forward)
        def patched(self: DistillModule, *args: Any, **kwargs: Any) -> Any:
            sums = forward(self, *args, **kwargs)
            if self.training and kwargs["step"] == step:
                seen.append(step)
                if len(seen) == micro_batch:
                    return sums | {"alignment": change(sums["alignment"])}
            return sums

        monkeypatch.setattr(DistillModule, "forward", patched)

    return spoil_at


def test_a_bad_loss_stops_the_run_with_the_last_good_state(
    stories: Path, stories_text: Path, tmp_path: Path, spoil: Any
) -> None:
    content: dict[str, Any] = {
        "teacher": str(stories),
        "keep": [0, 2, 4],
        "out": str(tmp_path / "out"),
        "data": {"files": [str(stories_text)], "sequence_length": 32},
        "training": {
            "max_steps": 4,
            "save_steps": 1,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "logging_steps": 1,
            "use_cpu": True,
        },
    }
    good = boomerang.distill(Recipe.parse(content | {"out": str(tmp_path / "good")}))
    content["training"]["save_steps"] = 2
    spoil(3, 2, lambda value: value * float("nan"))
    with pytest.raises(TrainingError) as error:
        boomerang.distill(Recipe.parse(content))
    message = str(error.value)
    assert message.startswith("step 4: the loss of micro-batch 2 of 3 (rows ")
    assert "is nan; nothing of the step was applied" in message and "\n" not in message
    out = tmp_path / "out"
    checkpoint = out / "checkpoints" / "checkpoint-3"
    assert str(checkpoint) in message
    name = Path("checkpoints", "checkpoint-3", "model.safetensors")
    assert (out / name).read_bytes() == (good / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]

    # From there with other settings, as the message says.
    other = content | {"student": str(checkpoint), "out": str(tmp_path / "other")}
    del other["keep"]
    other["training"] = content["training"] | {"max_steps": 1, "learning_rate": 1e-5}
    assert (boomerang.distill(Recipe.parse(other)) / "config.json").exists()


def with_gradient(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same number, with another gradient."""

    def change(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value.register_hook(lambda gradient: gradient * factor)
        return value

    return change


@pytest.mark.parametrize(
    ("factor", "largest"), [(float("inf"), 1.0), (float("nan"), 1.0), (float("nan"), 0.0)]
)
def test_nothing_of_a_bad_step_is_applied(
    tmp_path: Path, spoil: Any, factor: float, largest: float
) -> None:
    """Also where the loss is a number, and only its gradient none; and where none is clipped."""
    constant: dict[str, Any] = {"lr_scheduler_type": "constant", "max_grad_norm": largest}
    good = trainer_in(tmp_path / "good", max_steps=3, save_steps=1, **constant)
    good.train()
    spoil(2, 1, with_gradient(factor))
    trainer = trainer_in(tmp_path / "spoilt", save_steps=6, **constant)
    with pytest.raises(
        TrainingError, match=r"^step 3: the norm of the gradient is (inf|nan) \(rows"
    ):
        trainer.train()
    name = Path("checkpoint-2", "model.safetensors")
    assert (tmp_path / "spoilt" / name).read_bytes() == (tmp_path / "good" / name).read_bytes()
    saved = load_model(tmp_path / "spoilt" / "checkpoint-2").state_dict()
    assert_equal(dict(saved), weights(trainer))


def test_an_untrained_student_makes_no_checkpoint(tmp_path: Path, spoil: Any) -> None:
    spoil(0, 1, lambda value: value * float("inf"))
    with pytest.raises(TrainingError, match=r"^step 1: .* nothing of the step was applied$"):
        trainer_in(tmp_path).train()
    assert not list(tmp_path.iterdir())


def test_the_guard_names_the_first_bad_batch_and_not_too_many_rows() -> None:
    guard = StepGuard()
    batches = [
        {"row": torch.arange(0, 2)},
        {"row": torch.arange(2, 40)},
        {"row": torch.tensor([40])},
    ]
    guard.begin(batches)
    assert batches == [{}, {}, {}]
    for loss in (1.0, float("-inf"), float("nan")):
        guard.add(torch.tensor(loss))
    problem = guard.problem(torch.tensor(1.0))
    assert problem is not None
    assert problem.startswith("the loss of micro-batch 2 of 3 (rows 2, 3, ")
    assert problem.endswith(", 17, ...) is -inf")
    guard.begin([{"row": torch.tensor([5])}, {"row": torch.tensor([7])}])
    guard.add(torch.tensor(1.0))
    guard.add(torch.tensor(2.0))
    assert guard.problem(None) is None
    assert guard.problem(3.5) is None
    assert guard.problem(float("nan")) == "the norm of the gradient is nan (rows 5, 7)"
