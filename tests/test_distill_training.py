from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments

from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss
from boomerang.distill.trainer import DistillTrainer
from boomerang.text.pack import Document, padded
from boomerang.text.rows import Rows
from tiny_models import tiny_pair

ALL = Loss(ce=1, kl=1, alignment=10)
LENGTHS = (16, 3, 9, 12, 5, 16, 2, 11)


def rows_of(lengths: tuple[int, ...] = LENGTHS, width: int = 16) -> Rows:
    """Padded rows of very different lengths: a mean of means would be far from the mean."""
    tokens = (
        np.random.default_rng(number).integers(3, 97, length).astype(np.int32)
        for number, length in enumerate(lengths)
    )
    documents = [Document(ids, np.ones(len(ids), np.bool_)) for ids in tokens]
    return Rows(list(padded(documents, width, 2)), packed=False)


def one_step(
    out: Path, rows: Rows, batch: int, accumulate: int, mode: Any = "clean", **routes: float
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The student after one step of plain gradient descent, and what was logged."""
    teacher, student, layers = tiny_pair("qwen3")
    module = DistillModule(teacher, student, layers, ALL, mode=mode, **routes)
    args = TrainingArguments(
        output_dir=str(out),
        max_steps=1,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = DistillTrainer(module, args, rows)
    trainer.train()
    weights = {name: value.detach() for name, value in student.named_parameters()}
    return weights, trainer.state.log_history[0]


def assert_equal_steps(one: Any, other: Any) -> None:
    for name, value in one[0].items():
        torch.testing.assert_close(other[0][name], value, rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        if name not in ("tokens_per_second", "grad_norm"):
            assert other[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("routes", [{}, {"switch": 1.0}, {"mirror": 1.0}], ids=str)
def test_a_step_does_not_depend_on_how_its_rows_are_split(
    tmp_path: Path, routes: dict[str, float]
) -> None:
    whole = one_step(tmp_path, rows_of(), 8, 1, **routes)
    assert_equal_steps(whole, one_step(tmp_path, rows_of(), 1, 8, **routes))
    assert_equal_steps(whole, one_step(tmp_path, rows_of(), 2, 4, **routes))


def test_a_step_does_not_depend_on_padding(tmp_path: Path) -> None:
    narrow = one_step(tmp_path, rows_of(), 4, 2)
    assert_equal_steps(narrow, one_step(tmp_path, rows_of(width=29), 4, 2))


def test_a_step_is_not_its_own_neighbour(tmp_path: Path) -> None:
    """The comparison above would notice another row, and another term."""
    one = one_step(tmp_path, rows_of(), 8, 1)
    with pytest.raises(AssertionError):
        assert_equal_steps(one, one_step(tmp_path, rows_of((*LENGTHS[:-1], 12)), 8, 1))


def test_the_logged_loss_is_the_weighted_sum_of_its_terms(tmp_path: Path) -> None:
    _, log = one_step(tmp_path, rows_of(), 2, 4)
    assert log["loss"] == pytest.approx(log["ce"] + log["kl"] + 10 * log["alignment"], rel=1e-4)
    by_pair = [log[f"alignment/{pair}"] for pair in range(5)]
    assert log["alignment"] == pytest.approx(sum(by_pair) / 5)


def test_the_reference_sums_over_gradient_accumulation(tmp_path: Path) -> None:
    equal = rows_of((16,) * 8)
    _, whole = one_step(tmp_path, equal, 8, 1, mode="reference")
    _, parts = one_step(tmp_path, equal, 2, 4, mode="reference")
    assert parts["loss"] == pytest.approx(4 * whole["loss"], rel=1e-4)
