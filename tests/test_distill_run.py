"""Runs from a recipe to a student, on a real model and real text."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import boomerang
from boomerang.checkpoint.loading import load_model, load_tokenizer
from boomerang.checkpoint.student_config import read_student_config, write_student_config
from boomerang.cli import app
from boomerang.distill.checkpoints import last_checkpoint
from boomerang.distill.inputs import Inputs
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Recipe
from boomerang.distill.run import _student, prepare, training_arguments
from boomerang.errors import (
    CheckpointError,
    DataError,
    LayerMapError,
    OutputError,
    RecipeError,
)
from boomerang.student import cut
from tiny_models import tiny_model

LLAMA = {"model_type": "llama", "num_hidden_layers": 5}


@pytest.fixture
def content(tmp_path: Path, stories: Path, stories_text: Path) -> dict[str, Any]:
    """A recipe on a real model and real text."""
    return {
        "teacher": str(stories),
        "keep": [0, 2, 4],
        "out": str(tmp_path / "out"),
        "data": {
            "files": [str(stories_text)],
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
    assert {"log.jsonl", "tokenizer.json", "inputs.json"} <= names
    assert not {"checkpoints", "student"} & names
    # With the values it had in the end.
    assert Recipe.load(out / "recipe.yaml") == recipe.resolved(LLAMA)
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


@pytest.mark.parametrize("best", [False, True])
def test_a_run_that_was_killed_before_publishing_takes_no_step_more(
    content: dict[str, Any], interrupt_at: Any, best: bool
) -> None:
    content["training"] |= {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "constant"}
    if best:
        # The first evaluation is the best one.
        content["training"] |= {"eval_steps": 2, "load_best_model_at_end": True}
        content["training"] |= {"learning_rate": 1.0, "metric_for_best_model": "loss"}
    recipe = Recipe.parse(content)
    out = boomerang.distill(recipe)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    final = (out / "checkpoints/checkpoint-4/model.safetensors").read_bytes()
    assert (before["model.safetensors"] == final) != best
    for name in ("config.json", "model.safetensors"):
        (out / name).unlink()
    for step in range(6):
        interrupt_at(step)
    boomerang.distill(recipe)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content["training"] |= {"max_steps": 4, "save_steps": 1}
    out = boomerang.distill(Recipe.parse(content))
    before = (out / "model.safetensors").read_bytes()
    (out / "config.json").unlink()
    damaged = out / "checkpoints/checkpoint-4/optimizer/__0_0.distcp"
    flipped = bytearray(damaged.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    damaged.write_bytes(flipped)
    capsys.readouterr()
    boomerang.distill(Recipe.parse(content))
    assert (out / "model.safetensors").read_bytes() == before
    said = capsys.readouterr().err
    assert "checkpoint-4 is damaged (optimizer/__0_0.distcp has changed); going on" in said


def test_an_explicit_order_is_recorded_with_the_student(content: dict[str, Any]) -> None:
    content["training"] |= {"max_steps": 1}
    out = boomerang.distill(Recipe.parse(content))
    assert read_student_config(out)[1] is None
    for number, order in enumerate(([1, 0, 2], "last-to-first")):
        other = content | {"out": f"{content['out']}-{number}", "order": order}
        student = boomerang.distill(Recipe.parse(other))
        recorded = read_student_config(student)[1]
        assert recorded == tuple(order if isinstance(order, list) else (2, 1, 0))


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


def test_what_trainer_refuses_is_named_and_leaves_no_output(
    content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = "transformers.integrations.integration_utils"
    monkeypatch.setattr(f"{trackers}.is_wandb_available", lambda: False)
    content["training"]["report_to"] = "wandb"
    with pytest.raises(RecipeError, match=r"^training: .*[wW]and[bB]"):
        boomerang.distill(Recipe.parse(content))
    assert not Path(content["out"]).exists()


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"optim": "galore_adamw"}, "galore"),
        ({"optim": "sgd", "optim_args": "momentum"}, "unpack"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_kwargs": {"frequency": 2}}, "frequency"),
        # Only asked for when the warm-up is over.
        ({"lr_scheduler_kwargs": {"num_cycles": "two"}}, "str|sequence"),
        ({"torch_compile": True, "torch_compile_backend": "inductr"}, "INDUCTR"),
        ({"dataloader_persistent_workers": True}, "num_workers"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 5000}, "fill a batch"),
        ({"metric_for_best_model": "eval_perplexty"}, r"not measured; did you mean perplexity\?"),
        ({"learning_rate": -1.0}, "Invalid learning rate"),
        ({"adam_beta1": 2.0}, "Invalid beta"),
        ({"dataloader_num_workers": -1}, "num_workers"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_training_would_refuse_late_is_told_before_it(
    content: dict[str, Any], training: dict[str, Any], words: str
) -> None:
    content["training"] |= training
    with pytest.raises(RecipeError, match=words) as error:
        boomerang.distill(Recipe.parse(content))
    assert str(error.value).startswith("training: ") and "\n" not in str(error.value)
    assert not Path(content["out"]).exists()


def test_rows_longer_than_the_teachers_positions_are_refused(
    content: dict[str, Any], tmp_path: Path
) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path / "gpt2")
    content["teacher"] = str(tmp_path / "gpt2")
    content["data"]["sequence_length"] = 65
    with pytest.raises(RecipeError, match=r"data\.sequence_length: is 65 .* 64 positions"):
        boomerang.distill(Recipe.parse(content))
    assert not Path(content["out"]).exists()


def test_a_token_beyond_the_embedding_is_found_before_training(
    content: dict[str, Any], tmp_path: Path, stories: Path
) -> None:
    """A tokenizer of 512 tokens beside a teacher with 97 rows."""
    tiny_model("llama").save_pretrained(tmp_path / "teacher")
    load_tokenizer(stories).save_pretrained(tmp_path / "teacher")
    content |= {"teacher": str(tmp_path / "teacher"), "keep": [0, 2]}
    with pytest.raises(DataError, match=r"makes token \d{3} of .* embedding has only 97 rows; "):
        boomerang.distill(Recipe.parse(content))
    assert not Path(content["out"]).exists()


@pytest.mark.parametrize(
    "flag",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"return_dict": False},
        {"use_cache": False},
    ],
    ids=str,
)
def test_flags_in_a_config_do_not_change_what_forward_returns(
    content: dict[str, Any], tmp_path: Path, stories: Path, flag: dict[str, bool]
) -> None:
    teacher = shutil.copytree(stories, tmp_path / "teacher")
    config = json.loads((teacher / "config.json").read_text()) | flag
    (teacher / "config.json").write_text(json.dumps(config))
    boomerang.init_student(teacher, tmp_path / "student", boomerang.LayerMap((0, 2, 4), 5))
    del content["keep"]
    content |= {"teacher": str(teacher), "student": str(tmp_path / "student")}
    content["training"]["max_steps"] = 1
    out = boomerang.distill(Recipe.parse(content))
    # The student says what its teacher says.
    assert flag.items() <= json.loads((out / "config.json").read_text()).items()
    model = boomerang.Family.from_pretrained(teacher, out).model(patch=1)
    assert model(torch.ones(1, 4, dtype=torch.long)).hidden_states is None


def test_a_student_must_fit_the_teacher_and_the_recipe(
    content: dict[str, Any], tmp_path: Path, stories: Path
) -> None:
    layers = boomerang.LayerMap(content.pop("keep"), 5)
    student = boomerang.init_student(stories, tmp_path / "student", layers)
    content["student"] = str(student)

    def find(**changes: Any) -> Inputs:
        return Inputs.find(Recipe.parse(content | changes).resolved(LLAMA))

    assert find().sources.layers == layers
    with pytest.raises(RecipeError, match=r"^evaluate\.members: patch is 4; .* 0 to 2$"):
        find(evaluate={"members": [4]})
    with pytest.raises(RecipeError, match=r"^order: .* student layers 0 to 2"):
        find(order=[1, 0])
    write_student_config(Path(student), boomerang.LayerMap((0, 2), 4))
    with pytest.raises(LayerMapError, match=r"teacher has 5 layers and the kept layers make it 4$"):
        find()


def test_a_student_that_does_not_say_its_layers_has_them_in_the_recipe(
    content: dict[str, Any], tmp_path: Path, stories: Path
) -> None:
    keep = content.pop("keep")
    layers = boomerang.LayerMap(keep, 5)
    student = Path(boomerang.init_student(stories, tmp_path / "student", layers))
    content["student"] = str(student)

    def find(**changes: Any) -> Inputs:
        return Inputs.find(Recipe.parse(content | changes).resolved(LLAMA))

    assert find(keep=keep).sources.layers == layers
    with pytest.raises(LayerMapError, match=r"student_config\.json: says that the student keeps"):
        find(keep=[0, 1, 4])
    (student / "student_config.json").unlink()
    found = find(keep=keep)
    assert found.sources.layers == layers
    assert found.sources.directories[1] == student
    with pytest.raises(CheckpointError, match=r"bitwise those of teacher layers .* give --keep"):
        find()
    with pytest.raises(LayerMapError, match=r"student has 3 layers and the kept layers make it 2$"):
        find(keep=[0, 2])


def test_a_run_without_a_checkpoint_gives_way_to_a_corrected_recipe(
    content: dict[str, Any], interrupt_at: Any
) -> None:
    content["training"] |= {"max_steps": 2, "save_steps": 1}
    interrupt_at(0)
    with pytest.raises(Interrupted):
        boomerang.distill(Recipe.parse(content))
    interrupt_at(1)
    content["training"]["per_device_train_batch_size"] = 2
    with pytest.raises(Interrupted):
        boomerang.distill(Recipe.parse(content))
    # Now there is something to lose.
    with pytest.raises(OutputError, match="training"):
        boomerang.distill(Recipe.parse(content | {"training": {"use_cpu": True}}))


def test_a_run_goes_on_with_what_it_began_with(
    content: dict[str, Any], tmp_path: Path, stories: Path, stories_text: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(stories_text.read_text()[:8000])
    layers = boomerang.LayerMap(content.pop("keep"), 5)
    content["student"] = str(boomerang.init_student(stories, tmp_path / "student", layers))
    content["data"] |= {"files": [str(text)], "held_out": 0}
    content["training"]["max_steps"] = 1
    recipe = Recipe.parse(content)
    out = boomerang.distill(recipe)
    before = (out / "model.safetensors").stat()
    assert boomerang.distill(recipe) == out
    assert (out / "model.safetensors").stat() == before

    boomerang.init_student(stories, tmp_path / "student", layers, random=True, overwrite=True)
    with pytest.raises(OutputError, match="another student"):
        boomerang.distill(recipe)
    text.write_text(text.read_text()[:-100])
    with pytest.raises(OutputError, match="another text, student"):
        boomerang.distill(recipe)


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import boomerang
{patch}
boomerang.distill("{recipe}")
"""

# In the middle of writing the student, of moving its files, of writing down whose the output is.
_KILLS = {
    "saving": """
from boomerang.distill.trainer import DistillTrainer
save = DistillTrainer.save_student
def killed(self, directory, weights=None):
    save(self, directory, weights)
    if "boomerang-partial" in str(directory):
        os.kill(os.getpid(), signal.SIGKILL)
DistillTrainer.save_student = killed
""",
    "moving": """
replace = Path.replace
def killed(self, target):
    if Path(target).name == "config.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = killed
""",
    "claiming": """
write = Path.write_text
def killed(self, text, **kwargs):
    write(self, text[:20], **kwargs)
    if "recipe.yaml" in self.name:
        os.kill(os.getpid(), signal.SIGKILL)
Path.write_text = killed
""",
}


@pytest.mark.parametrize("moment", _KILLS)
def test_a_run_that_was_killed_goes_on_and_leaves_nothing_behind(
    content: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    content["training"]["max_steps"] = 2
    recipe = Recipe.parse(content)
    recipe.save(tmp_path / "recipe.yaml")
    script = _KILLED.format(patch=_KILLS[moment], recipe=tmp_path / "recipe.yaml")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert done.returncode == -9, done.stderr
    out = Path(recipe.out)
    assert not (out / "config.json").exists()
    boomerang.distill(recipe)
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "log.jsonl", "recipe.yaml"} <= names
    assert not [name for name in names if name.startswith(".")]
    assert not {"checkpoints", "student"} & names
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_run_is_interrupted_at_the_cost_of_a_tenth_by_default(
    content: dict[str, Any], interrupt_at: Any
) -> None:
    interrupt_at(5)
    with pytest.raises(Interrupted):
        boomerang.distill(Recipe.parse(content))
    checkpoints = Path(content["out"]) / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-4"]


def test_the_student_is_cut_from_unrounded_weights(content: dict[str, Any]) -> None:
    """Also where the teacher runs in bf16; and a teacher of its own dtype is loaded only once."""
    recipe = Recipe.parse(content).resolved(LLAMA)
    inputs = Inputs.find(recipe)
    assert inputs.sources.layers.kept == (0, 2, 4)
    whole = load_model(inputs.sources.teacher.directory, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        teacher = load_model(inputs.sources.teacher.directory, dtype=dtype)
        student = _student(recipe, inputs.sources, teacher)
        expected = cut(whole, inputs.sources.layers).state_dict()
        for name, value in student.state_dict().items():
            assert torch.equal(value, expected[name])
        shared = {parameter.data_ptr() for parameter in teacher.parameters()}
        assert not shared & {parameter.data_ptr() for parameter in student.parameters()}


def test_model_options_reach_both_models(content: dict[str, Any]) -> None:
    recipe = Recipe.parse(content | {"model": {"attn_implementation": "eager"}})
    recipe = recipe.resolved(LLAMA)
    trainer = prepare(recipe, training_arguments(recipe), Inputs.find(recipe))
    for model in (trainer.module.teacher, trainer.module.student):
        assert model.config._attn_implementation == "eager"


def test_the_short_form_takes_the_teachers_length_and_loading_options(
    stories: Path, stories_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Recipe] = []
    module = sys.modules["boomerang.distill"]
    monkeypatch.setattr(module, "distill", lambda recipe: given.append(recipe) or "out")
    words = ["distill", str(stories), str(tmp_path / "out"), "--data", str(stories_text)]
    options = ["--attn-implementation", "eager", "--trust-remote-code", "--device", "cpu"]
    options += ["--preset", "paper"]
    result = CliRunner().invoke(app, words + options)
    assert result.exit_code == 0, result.output
    recipe = given[0]
    assert recipe.data.sequence_length == 512
    assert recipe.model.for_model() == {"attn_implementation": "eager", "trust_remote_code": True}
    assert recipe.training["use_cpu"] is True
    assert (recipe.preset, recipe.loss.kl) == ("paper", 0.1)
    recipe.save(tmp_path / "recipe.yaml")
    words = ["distill", str(tmp_path / "recipe.yaml"), "--preset", "paper"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, RecipeError)
    assert str(result.exception) == "--preset: cannot go with a recipe; use --set instead"


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
