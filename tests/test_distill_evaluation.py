"""What is measured while it trains, and what is left alone."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import TrainingArguments

from boomerang import Family, build
from boomerang.distill.callbacks import describe
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss, Recipe
from boomerang.distill.run import training_arguments
from boomerang.distill.trainer import DistillTrainer
from boomerang.student import cut
from boomerang.text.rows import collate
from test_distill_training import rows_of
from tiny_models import tiny_pair

ORDER = "first-to-last"


def trained(out: Path, loss: Loss, **module: Any) -> DistillTrainer:
    """A tied teacher and its student after two steps, with every member to evaluate."""
    teacher, _, layers = tiny_pair("qwen3", True)
    student = copy.deepcopy(cut(teacher, layers))
    members = {k: layers.member(k, ORDER).patched for k in range(1, layers.max_patch + 1)}
    args = TrainingArguments(
        output_dir=str(out),
        max_steps=2,
        learning_rate=1e-2,
        per_device_eval_batch_size=3,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    model = DistillModule(teacher, student, layers, loss, **module)
    trainer = DistillTrainer(model, args, rows_of(), rows_of((9, 16, 4, 12)), members=members)
    trainer.train()
    return trainer


@pytest.mark.parametrize("loss", [Loss(), Loss(ce=0)], ids=["ce", "no ce"])
def test_members_are_measured_in_place(tmp_path: Path, loss: Loss) -> None:
    trainer = trained(tmp_path, loss)
    logged = trainer.evaluate()
    assert list(logged) == [f"eval_{name}" for name in trainer.metric_names]
    module = trainer.module
    family = Family(module.teacher, module.student, module.layers)
    rows = trainer.eval_dataset
    batch = collate([rows[i] for i in range(len(rows))])
    labels = batch.pop("labels")
    for patch in range(module.layers.max_patch + 1):
        model = family.model(patch=patch, order=ORDER).eval()
        with torch.no_grad():
            logits = model(**batch).logits
        expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        name = "eval_perplexity" if patch == 0 else f"eval_perplexity_patch_{patch}"
        assert math.log(logged[name]) == pytest.approx(float(expected), rel=1e-5)
    shown = describe(logged)
    assert f"eval_perplexity {logged['eval_perplexity']:.3f}  patch 1 " in shown


def test_every_process_has_as_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five rows in batches of three: the last of three processes runs one that does not count."""
    trainer = trained(tmp_path, Loss())
    rows = rows_of((9, 16, 4, 12, 7))
    logged = trainer.evaluate()
    # 4 rows in batches of 3, and one batch of all.
    trainer.args.per_device_eval_batch_size = 4
    assert trainer.evaluate() == pytest.approx(logged, rel=1e-5)
    trainer.args.per_device_eval_batch_size = 3
    seen = []
    monkeypatch.setattr(TrainingArguments, "world_size", 3)
    for process in range(3):
        monkeypatch.setattr(TrainingArguments, "process_index", process)
        seen += [(len(b["input_ids"]), count) for b, count in trainer._held_out_batches(rows)]
    assert seen == [(3, 1), (2, 1), (1, 0)]


def test_held_out_rows_are_measured_every_tenth_of_a_run() -> None:
    content: dict[str, Any] = {
        "teacher": "t",
        "keep": [0, 2],
        "out": "out",
        "data": {"files": ["a"], "sequence_length": 8},
        "training": {"use_cpu": True},
    }
    args = training_arguments(Recipe.parse(content))
    assert args.eval_strategy == "no"
    content["data"]["held_out"] = 4
    args = training_arguments(Recipe.parse(content))
    assert (args.eval_strategy, args.eval_steps) == ("steps", 0.1)
    args = training_arguments(Recipe.parse(content, ["training.eval_strategy=no"]))
    assert args.eval_strategy == "no"


def test_frozen_parts_have_no_state_and_every_member_of_a_tied_teacher_one_matrix(
    tmp_path: Path,
) -> None:
    trainer = trained(tmp_path / "run", Loss(), freeze=["embedding", "head"])
    module = trainer.module
    frozen = [p for p in module.student.parameters() if not p.requires_grad]
    # The matrix, once, and the final norm.
    assert [p.dim() for p in frozen] == [2, 1]
    state = {id(p) for p in trainer.optimizer.state}
    given = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    rest = {id(p) for p in module.student.parameters() if p.requires_grad}
    assert state == given == rest

    module.teacher.save_pretrained(tmp_path / "teacher")
    trainer.save_student(tmp_path / "student")
    for patch in range(module.layers.max_patch + 1):
        out = tmp_path / f"member-{patch}"
        build(tmp_path / "teacher", tmp_path / "student", out, patch=patch, order=ORDER)
        assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
        with safe_open(out / "model.safetensors", "pt") as file:
            assert "lm_head.weight" not in file.keys()  # noqa: SIM118


def test_without_freezing_members_of_a_tied_teacher_have_two(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", Loss())
    trainer.module.teacher.save_pretrained(tmp_path / "teacher")
    trainer.save_student(tmp_path / "student")
    out = build(tmp_path / "teacher", tmp_path / "student", tmp_path / "m", patch=1, order=ORDER)
    config = json.loads((Path(out) / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
