from __future__ import annotations

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import boomerang
from boomerang.distill.data import Rows
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss, Recipe
from boomerang.distill.run import training_arguments
from boomerang.distill.trainer import DistillTrainer, last_checkpoint
from boomerang.errors import DataError, OutputError, RecipeError
from tiny_models import tiny_pair

ALL = Loss(ce=1, kl=1, alignment=10)
LENGTHS = (16, 3, 9, 12, 5, 16, 2, 11)


def rows_of(lengths: tuple[int, ...] = LENGTHS, width: int = 16) -> Rows:
    """Padded rows of very different lengths: a mean of means would be far from the mean."""
    tokens = np.full((len(lengths), width), 2, dtype=np.int32)
    for number, length in enumerate(lengths):
        tokens[number, :length] = np.random.default_rng(number).integers(3, 97, length)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    return Rows(tokens, positions, np.asarray(lengths, dtype=np.int32))


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


_IN_TWO_PROCESSES = """
import os
from pathlib import Path
import torch
from test_distill_training import one_step, rows_of
torch.set_num_threads(1)
weights, log = one_step(Path("{out}"), rows_of(), 2, 2, mirror=1.0)
if os.environ["RANK"] == "0":
    torch.save((weights, log), "{out}/result.pt")
"""


def test_two_processes_take_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "step.py"
    script.write_text(_IN_TWO_PROCESSES.format(out=tmp_path))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            script,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        check=True,
        capture_output=True,
        timeout=300,
    )
    assert_equal_steps(
        one_step(tmp_path, rows_of(), 8, 1, mirror=1.0), torch.load(tmp_path / "result.pt")
    )


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


@pytest.fixture
def content(tmp_path: Path, stories: Path, stories_text: Path) -> dict[str, Any]:
    """A recipe on a real model and real text."""
    return {
        "teacher": str(stories),
        "keep": [0, 2, 4],
        "out": str(tmp_path / "out"),
        "data": {
            "files": [str(stories_text)],
            "separator": "<|endoftext|>",
            "sequence_length": 64,
            "held_out": 16,
        },
        "loss": {"kl": 1, "alignment": 10, "distance": "relative_squared_error"},
        "switch": 0.2,
        "mirror": 0.2,
        "training": {
            "max_steps": 20,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-3,
            "logging_steps": 1,
            "use_cpu": True,
        },
    }


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_distilling_a_real_student_makes_it_better(
    content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    content["training"] |= {"eval_strategy": "steps", "eval_steps": 20, "eval_on_start": True}
    recipe = Recipe.parse(content)
    out = boomerang.distill(recipe)
    assert capsys.readouterr().out == ""

    evaluations = [row for row in logged(out) if "eval_ce" in row]
    assert [row["step"] for row in evaluations] == [0, 20]
    # Perplexity 58 to about 15.
    assert evaluations[1]["eval_ce"] < evaluations[0]["eval_ce"] - 1
    assert evaluations[1]["eval_alignment"] < evaluations[0]["eval_alignment"]

    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "student_config.json", "recipe.yaml"} <= names
    assert {"log.jsonl", "tokenizer.json", "checkpoints"} <= names
    assert Recipe.load(out / "recipe.yaml") == recipe
    student = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    batch = tokenizer("Once upon a time", return_tensors="pt")
    text = tokenizer.decode(student.generate(batch["input_ids"], max_new_tokens=8)[0])
    assert text.startswith("<s> Once upon a time") or text.startswith("<s>Once upon a time")


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function after which a run breaks off in the middle of a step, or no longer does."""
    forward = DistillModule.forward

    def set_step(broken: int | None) -> None:
        @functools.wraps(forward)
        def patched(self: DistillModule, *args: Any, step: int = 0, **kwargs: Any) -> Any:
            if step == broken:
                raise Interrupted
            return forward(self, *args, step=step, **kwargs)

        monkeypatch.setattr(DistillModule, "forward", patched)

    yield set_step


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    content: dict[str, Any], tmp_path: Path, interrupt_at: Any
) -> None:
    content["training"] |= {"max_steps": 6, "save_steps": 2, "gradient_accumulation_steps": 2}
    straight = boomerang.distill(Recipe.parse(content | {"out": str(tmp_path / "straight")}))

    recipe = Recipe.parse(content)
    interrupt_at(5)
    with pytest.raises(Interrupted):
        boomerang.distill(recipe)
    out = Path(recipe.out)
    assert not (out / "config.json").exists()
    # A checkpoint that was being written when the machine went down.
    shutil.copytree(out / "checkpoints" / "checkpoint-2", out / "checkpoints" / "checkpoint-5")
    (out / "checkpoints" / "checkpoint-5" / "trainer_state.json").write_text('{"global_')
    assert last_checkpoint(out / "checkpoints") == out / "checkpoints" / "checkpoint-4"
    interrupt_at(None)
    boomerang.distill(recipe)

    assert (out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    first, second = logged(straight), logged(out)
    assert [row["step"] for row in second] == [row["step"] for row in first]
    for one, other in zip(first, second, strict=True):
        assert other.get("loss") == one.get("loss")

    # What is finished is not done again, and not given to another recipe.
    interrupt_at(0)
    assert boomerang.distill(recipe) == out
    with pytest.raises(OutputError, match="mirror, seed"):
        boomerang.distill(Recipe.parse(content | {"mirror": 0.5, "seed": 7}))


def test_an_output_with_something_else_in_it_is_refused(content: dict[str, Any]) -> None:
    out = Path(content["out"])
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        boomerang.distill(Recipe.parse(content))
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_checkpoints_on_the_way_are_students(content: dict[str, Any]) -> None:
    content["training"] |= {"max_steps": 2, "save_steps": 1}
    content["freeze"] = ["embedding", "head"]
    out = boomerang.distill(Recipe.parse(content))
    early, late = out / "checkpoints" / "checkpoint-1", out / "checkpoints" / "checkpoint-2"
    first, last, end = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (early, late, out)
    )
    teacher = AutoModelForCausalLM.from_pretrained(content["teacher"]).state_dict()
    for name, value in end.items():
        assert torch.equal(value, last[name])
        assert torch.equal(value, first[name]) == (".layers." not in name)
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(end[name], teacher[name])
    assert (early / "student_config.json").exists()


def test_training_values_that_transformers_refuses_are_named(content: dict[str, Any]) -> None:
    wrong = copy.deepcopy(content)
    wrong["training"]["lr_scheduler_type"] = "sawtooth"
    with pytest.raises(RecipeError, match=r"training: .*sawtooth"):
        training_arguments(Recipe.parse(wrong))


def test_left_out_training_fields_take_the_papers_values(content: dict[str, Any]) -> None:
    args = training_arguments(Recipe.parse(content | {"training": {"use_cpu": True}}))
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.95, 1e-8)
    assert (args.weight_decay, args.learning_rate, args.max_grad_norm) == (0.1, 3e-4, 1.0)
    assert (args.lr_scheduler_type, args.max_steps) == ("cosine", 500)
    assert args.get_warmup_steps(500) == 5
    epochs = {"num_train_epochs": 2, "use_cpu": True}
    assert training_arguments(Recipe.parse(content | {"training": epochs})).max_steps == -1


def test_a_recipe_that_cannot_start_leaves_no_output(content: dict[str, Any]) -> None:
    content["data"]["files"] = ["missing.txt"]
    with pytest.raises(DataError, match=r"missing\.txt"):
        boomerang.distill(Recipe.parse(content))
    assert not Path(content["out"]).exists()
