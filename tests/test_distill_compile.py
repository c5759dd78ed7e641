"""Compiled layers; `eager` traces, guards and cuts into graphs as for any other backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import TrainingArguments

from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss
from boomerang.distill.trainer import DistillTrainer
from test_distill_module import ALL, loss_of, tokens
from test_distill_training import rows_of
from tiny_models import tiny_pair


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    # TrainingArguments tells accelerate by the environment.
    for name in [name for name in os.environ if name.startswith("ACCELERATE_DYNAMO")]:
        del os.environ[name]


@pytest.mark.parametrize("whole", [False, True])
def test_layers_can_be_compiled_once_for_all_routes(whole: bool) -> None:
    teacher, student, layers = tiny_pair("qwen3")
    module = DistillModule(teacher, student, layers, ALL, switch=0.4, mirror=0.4).train()
    ids = tokens()
    exact = [module(ids, ids, step=step)["prediction"].item() for step in range(8)]
    module.compile(backend="eager")
    run = torch.compile(module, backend="eager") if whole else module
    for step in range(8):
        sums = run(ids, ids, step=step)
        loss_of(sums, ALL).backward()
        assert sums["prediction"].item() == pytest.approx(exact[step], rel=1e-5)
    # With and without gradients, on a state that needs one and on one that does not.
    assert counters["stats"]["unique_graphs"] <= 4
    assert whole or not counters["graph_break"]


def test_the_trainer_compiles_layers(tmp_path: Path) -> None:
    teacher, student, layers = tiny_pair("qwen3")
    module = DistillModule(teacher, student, layers, Loss(kl=1), switch=0.4, mirror=0.4)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        torch_compile=True,
        torch_compile_backend="eager",
    )
    DistillTrainer(module, args, rows_of()).train()
    assert counters["stats"]["unique_graphs"] > 0
