"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainingArguments

from boomerang.checkpoint.student_config import read_student_config
from boomerang.distill.checkpoints import (
    checkpoint_to_resume,
    damage,
    last_checkpoint,
    remove_all,
)
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss
from boomerang.distill.trainer import DistillTrainer
from boomerang.errors import OutputError
from test_distill_training import rows_of
from tiny_models import tiny_pair


def trainer_in(out: Path, held_out: bool = False, **fields: Any) -> DistillTrainer:
    """Six steps on a tiny pair, a checkpoint after every second."""
    teacher, student, layers = tiny_pair("qwen3")
    module = DistillModule(teacher, student, layers, Loss(kl=1))
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": 6,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    args = TrainingArguments(**(settings | fields))
    return DistillTrainer(module, args, rows_of(), rows_of() if held_out else None)


def weights(trainer: DistillTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.module.student.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Broken(Exception):
    pass


@pytest.mark.parametrize("moment", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_what_was_being_written_is_ignored_and_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    straight = trainer_in(tmp_path / "straight")
    straight.train()

    save = getattr(DistillTrainer, moment)

    def broken(self: DistillTrainer, directory: str) -> None:
        save(self, directory)
        if self.state.global_step == 4:
            raise Broken

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(DistillTrainer, moment, broken)
        trainer_in(out).train()
    assert {path.name for path in out.iterdir()} == {"checkpoint-2", "partial"}
    assert last_checkpoint(out) == out / "checkpoint-2"

    assert checkpoint_to_resume(out, print) == out / "checkpoint-2"
    assert {path.name for path in out.iterdir()} == {"checkpoint-2"}
    resumed = trainer_in(out)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(out)))
    assert_equal(weights(resumed), weights(straight))
    names = {path.name for path in out.iterdir()}
    assert names == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    # Nothing is missing, and what a killed Trainer had left under the final name would have been.
    expected = {path.name for path in (tmp_path / "straight" / "checkpoint-4").iterdir()}
    assert {path.name for path in (out / "checkpoint-4").iterdir()} == expected
    assert {"model.safetensors", "optimizer", "rng_state.pth", "trainer_state.json"} <= expected


def test_a_checkpoint_is_a_student(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    trainer.train()
    last = tmp_path / "checkpoint-6"
    saved = AutoModelForCausalLM.from_pretrained(last).state_dict()
    assert_equal(dict(saved), weights(trainer))
    assert read_student_config(last)[0] == trainer.module.layers


def test_broken_and_left_over_directories_are_removed_and_others_are_not(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    assert checkpoint_to_resume(tmp_path / "none", print) is None
    trainer_in(tmp_path, max_steps=2).train()
    for name in ("checkpoint-10", "checkpoint-11"):
        shutil.copytree(tmp_path / "checkpoint-2", tmp_path / name)
    (tmp_path / "checkpoint-11" / "trainer_state.json").write_text('{"global_')
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / ".checkpoint-12.boomerang-partial-x").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert checkpoint_to_resume(tmp_path, print) == tmp_path / "checkpoint-10"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint-2", "checkpoint-10", "runs"}
    remove_all(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    shutil.rmtree(tmp_path / "runs")
    remove_all(tmp_path)
    assert not tmp_path.exists()


def test_old_checkpoints_make_room(tmp_path: Path) -> None:
    trainer_in(tmp_path, max_steps=12, save_total_limit=2).train()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"checkpoint-10", "checkpoint-12"}


def test_the_best_checkpoint_stays_and_is_loaded(tmp_path: Path) -> None:
    # With this learning rate it gets worse from step to step.
    fields: dict[str, Any] = {
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "perplexity",
        "greater_is_better": False,
        "load_best_model_at_end": True,
        "save_total_limit": 1,
    }
    trainer = trainer_in(tmp_path, held_out=True, **fields)
    trainer.train()
    measured = [row["eval_perplexity"] for row in trainer.state.log_history if "eval_ce" in row]
    best = 2 * (measured.index(min(measured)) + 1)
    assert best < 6
    checkpoint = tmp_path / f"checkpoint-{best}"
    assert trainer.state.best_model_checkpoint == str(checkpoint)
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.name}
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(checkpoint)
    saved = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert_equal(dict(saved), weights(trainer))


def test_a_checkpoint_with_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    trainer_in(out).train()
    newest, before = out / "checkpoint-6", out / "checkpoint-4"
    files = [path for path in newest.rglob("*") if path.is_file() and path.name != "hashes.json"]
    assert {"model.safetensors", "__0_0.distcp", "rng_state.pth"} <= {path.name for path in files}
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        assert last_checkpoint(out) == before, file.name
        # One bit, in the middle of the file.
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        name = str(file.relative_to(newest))
        assert damage(newest) == f"{name} has changed"
        file.unlink()
        assert damage(newest) == f"{file.name} is missing"
        file.write_bytes(content)
    assert last_checkpoint(out) == newest and damage(newest) is None
    (newest / "scheduler.pt").unlink()
    said: list[str] = []
    assert checkpoint_to_resume(out, said.append) == before
    assert said == ["checkpoint-6 is damaged (scheduler.pt is missing); going on from checkpoint-4"]
    assert not newest.exists() and before.exists()


def test_parameters_that_no_step_has_trained_have_no_state_after_resuming(tmp_path: Path) -> None:
    def trainer(name: str) -> DistillTrainer:
        made = trainer_in(tmp_path / name, max_steps=3, save_steps=1)
        made.module.mirror = 1.0
        return made

    straight = trainer("straight")
    straight.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-1"))
    assert_equal(weights(resumed), weights(straight))
    count = len(list(straight.module.parameters()))
    assert 0 < len(resumed.optimizer.state) == len(straight.optimizer.state) < count


@pytest.mark.parametrize("record", ["", "[]", "{", '{"config.json": 1}'])
def test_without_a_whole_checkpoint_nothing_begins_anew(tmp_path: Path, record: str) -> None:
    trainer_in(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / "hashes.json").write_text(record)
    with pytest.raises(OutputError, match=r"no checkpoint to go on from: checkpoint-2 is damaged"):
        checkpoint_to_resume(tmp_path, print)
    assert (tmp_path / "checkpoint-2").exists()


def test_a_damaged_best_checkpoint_is_not_loaded(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, max_steps=2)
    trainer.train()
    weights_file = tmp_path / "checkpoint-2" / "model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-2")
    with pytest.raises(OutputError, match=r"is damaged \(model\.safetensors has changed\)"):
        trainer._load_best_model()
