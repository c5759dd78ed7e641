"""What a run is said to take, against what it takes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerControl, TrainerState, TrainingArguments

from boomerang.distill.callbacks import ShowProgress
from boomerang.distill.module import DistillModule
from boomerang.distill.preflight import (
    Matrices,
    ModelSize,
    Preflight,
    flops_per_token,
    forward_flops_per_token,
)
from boomerang.distill.recipe import Loss
from test_distill_checkpoints import trainer_in
from tiny_models import tiny_model, tiny_pair


def test_training_takes_what_palm_says() -> None:
    """6N + 12·L·H·Q·T (arXiv 2204.02311, appendix B) for the student, a third for the teacher."""
    student, teacher = Matrices(1_000, 3, 8), Matrices(5_000, 7, 8)
    assert flops_per_token(student, Matrices(0, 0, 0), 16) == 6 * 1_000 + 12 * 3 * 8 * 16
    trained_teacher = flops_per_token(teacher, Matrices(0, 0, 0), 16)
    assert flops_per_token(Matrices(0, 0, 0), teacher, 16) == trained_teacher / 3


@pytest.mark.parametrize(("name", "tied"), [("qwen3", False), ("qwen3", True), ("gpt2", None)])
def test_a_pass_takes_what_is_counted(name: str, tied: bool | None) -> None:
    """Against torch's own count of the matrix products; norms and biases are not among them."""
    model = tiny_model(name, tied=tied)
    model.set_attn_implementation("eager")
    tokens = torch.arange(32)[None] % 97
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    found = ModelSize.of(model).matrices
    vectors = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    expected = forward_flops_per_token(found, 32) - 2 * vectors
    assert counter.get_total_flops() == pytest.approx(32 * expected, rel=1e-3)


def test_the_preflight_counts_the_run() -> None:
    teacher, student, layers = tiny_pair("qwen3", True)
    module = DistillModule(teacher, student, layers, Loss(), freeze=["embedding"])
    size = ModelSize.of(student)
    table = student.get_input_embeddings().weight
    assert size.parameters == student.num_parameters()
    assert size.trained == size.parameters - table.numel()
    # A tied matrix is no lookup alone.
    assert size.matrices.parameters == size.parameters
    plan = Preflight(size, ModelSize.of(module.teacher), (4, 3, 2), 16, 10, {"weights": 2**30})
    assert plan.tokens == 4 * 3 * 2 * 16
    text = io.StringIO()
    Console(file=text, width=200).print(plan.table())
    for words in (
        "4 rows x 3 micro-batches x 2 processes x 16",
        "10 steps, 3.840K tokens",
        f"{plan.flops_per_token:.2e} a token",
        f"{table.numel() / 1000:.3f}K frozen",
        "1.00 GiB",
    ):
        assert words in text.getvalue()


def test_the_time_that_is_left_is_measured_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(monotonic=iter([100.0, 106.0]).__next__)
    monkeypatch.setattr(sys.modules[ShowProgress.__module__], "time", clock)
    progress = ShowProgress()
    args, control = TrainingArguments(use_cpu=True), TrainerControl()
    state = TrainerState(max_steps=1_000, global_step=10)
    progress.on_train_begin(args, state, control)
    for step in range(11, 16):
        state.global_step = step
        progress.on_step_end(args, state, control)
        if step != 14:
            progress.on_log(args, state, control, {"loss": 1.0})
    # Nothing until three steps are done; then two steps took six seconds.
    begin, *lines = capsys.readouterr().err.splitlines()
    said = [line.partition("loss 1.000")[2].strip() for line in lines]
    assert begin == "Going on after step 10 of 1000"
    assert said == ["", "", "", "0:49:15 left"]


def test_what_memory_is_said_to_take_is_taken(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, max_steps=1, save_strategy="no")
    plan = Preflight.of(trainer.module, trainer.args, 16, 1)
    trainer.train()
    module = trainer.module
    models = (module.student, module.teacher)
    weights = sum(p.numel() * p.element_size() for model in models for p in model.parameters())
    assert plan.memory["weights"] == weights
    state = sum(
        value.numel() * value.element_size()
        for values in trainer.optimizer.state.values()
        for name, value in values.items()
        if name != "step"
    )
    assert plan.memory["optimizer state"] == state
    assert plan.memory["gradients"] == 4 * module.student.num_parameters()
    # M+1 states of every token of a micro-batch.
    pairs = len(module.layers.alignment)
    assert plan.memory["boundary states"] == pairs * (2 * 16) * 32 * 4
