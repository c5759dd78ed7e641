"""Training in several processes, sharded or not, equals training in one.

Starting processes takes seconds: two of them run everything there is to compare, once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainingArguments

import boomerang
from boomerang.distill import sharding
from boomerang.distill.checkpoints import last_checkpoint
from boomerang.distill.recipe import Recipe
from boomerang.distill.run import training_arguments
from boomerang.errors import OutputError, RecipeError
from two_processes import SEED, STEPS, outcome, trainer_in

Outcome = dict[str, Any]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(directory: Path) -> Outcome:
    """What one process makes of it."""
    return outcome(trainer_in(directory / "one"))


@pytest.fixture(scope="module")
def recipe(directory: Path, stories: Path, stories_text: Path) -> dict[str, Any]:
    content: dict[str, Any] = {
        "teacher": str(stories),
        "keep": [0, 2, 4],
        "out": str(directory / "student"),
        "data": {"files": [str(stories_text)], "sequence_length": 32, "held_out": 5},
        "evaluate": {"members": [1]},
        "training": {
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_steps": 1,
            "use_cpu": True,
        },
    }
    (directory / "recipe.yaml").write_text(yaml.safe_dump(content))
    return content


@pytest.fixture(scope="module")
def printed(
    directory: Path, one: Outcome, recipe: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    """Two processes, started as a user starts them, and what they say."""
    here = Path(__file__).parent
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(here / "two_processes.py", directory),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def two(directory: Path, printed: subprocess.CompletedProcess[str]) -> dict[str, Outcome]:
    assert printed.returncode == 0, printed.stderr
    return torch.load(directory / "results.pt")


def assert_equal(found: Outcome, expected: Outcome) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        # A step moves a weight by up to the learning rate, 0.01.
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert_equal_logs(found["logs"], expected["logs"])


def assert_equal_logs(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    # The summary of a run is about the steps since it went on.
    found, expected = ([e for e in log if "train_loss" not in e] for log in (found, expected))
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        assert mine.keys() == other.keys()
        for name, value in other.items():
            if "per_second" not in name:
                assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_two_processes_train_as_one_does(one: Outcome, two: dict[str, Outcome]) -> None:
    assert_equal(two["two"], one)
    # The comparison saw all there is: routes, members, and a process that waits with no target.
    names = {name for entry in one["logs"] for name in entry}
    assert {"ce", "ce_switch", "ce_mirror", "eval_perplexity_patch_2", "grad_norm"} <= names
    pairs = set(zip(*(map(bool, targets) for targets in two["two"]["targets"]), strict=True))
    assert {(True, False), (False, True)} & pairs
    assert not two["two"]["sharded"]


def test_a_run_goes_on_in_more_or_fewer_processes(
    directory: Path, one: Outcome, two: dict[str, Outcome]
) -> None:
    assert_equal(two["one, then two"], one)
    fewer = outcome(trainer_in(directory / "fewer"), directory / "two/checkpoint-1")
    assert_equal(fewer, one)


def test_sharded_models_train_as_whole_ones_do(one: Outcome, two: dict[str, Outcome]) -> None:
    assert_equal(two["sharded"], one)
    assert two["sharded"]["sharded"]
    # 97 rows of the embedding are not even.
    assert 0.49 < two["sharded"]["share"] < 0.52
    assert not one["sharded"] and one["share"] == 1


def test_sharded_models_with_frozen_parts_and_activation_checkpointing(
    directory: Path, two: dict[str, Outcome]
) -> None:
    frozen = trainer_in(directory / "whole", name="llama", freeze=("embedding", "head"))
    assert_equal(two["sharded, frozen"], outcome(frozen))


def test_a_sharded_run_goes_on(one: Outcome, two: dict[str, Outcome]) -> None:
    assert_equal(two["sharded, then again"], one)
    # Also where it was not sharded before.
    assert_equal(two["one, then sharded"], one)
    assert two["one, then sharded"]["sharded"]


def test_the_state_of_a_sharded_optimizer_is_for_any_number_of_processes(
    directory: Path, one: Outcome, two: dict[str, Outcome]
) -> None:
    def state(name: str) -> dict[int, dict[str, torch.Tensor]]:
        trainer = trainer_in(directory / "unused")
        trainer.create_optimizer_and_scheduler(STEPS)
        trainer.optimizer = trainer.accelerator.prepare(trainer.optimizer)
        trainer._load_optimizer_and_scheduler(str(directory / name / "checkpoint-1"))
        return trainer.optimizer.state_dict()["state"]

    found, whole = state("sharded"), state("one")
    # Where nothing was trained yet there is no state.
    assert found.keys() == whole.keys()
    count = len(list(trainer_in(directory / "unused").module.parameters()))
    assert 0 < len(whole) < count
    for number, fields in whole.items():
        assert found[number].keys() == fields.keys()
        for name, value in fields.items():
            torch.testing.assert_close(found[number][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "tied"), [("sharded", True), ("frozen", False)])
def test_checkpoints_of_sharded_students_are_plain_ones(
    directory: Path, two: dict[str, Outcome], name: str, tied: bool
) -> None:
    checkpoint = directory / name / f"checkpoint-{STEPS}"
    tensors = load_file(checkpoint / "model.safetensors")
    assert ("lm_head.weight" in tensors) != tied
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM" if tied else "LlamaForCausalLM"]
    assert config["tie_word_embeddings"] == tied
    saved = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    weights = two["sharded" if tied else "sharded, frozen"]["weights"]
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[key], weights[key]) for key in saved)


def test_the_command_in_two_sharded_processes(
    directory: Path,
    two: dict[str, Outcome],
    printed: subprocess.CompletedProcess[str],
    recipe: dict[str, Any],
) -> None:
    out = directory / "student"
    # One of them speaks.
    assert printed.stdout == f"{out}: the distilled student\n"
    assert printed.stderr.count("Loading teacher") == printed.stderr.count("step 3/3  loss") == 1
    training = recipe["training"] | {"gradient_accumulation_steps": 2}
    alone = boomerang.distill(
        Recipe.parse(recipe | {"training": training, "out": str(directory / "alone")})
    )
    expected = load_file(alone / "model.safetensors")
    found = load_file(out / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    logs = [
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (out, alone)
    ]
    assert_equal_logs(*logs)
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}

    # Interrupted before the last step, it goes on in one process, which shards nothing.
    fewer = shutil.copytree(out, directory / "fewer, by command")
    for name in ("config.json", "model.safetensors"):
        (fewer / name).unlink()
    shutil.rmtree(fewer / "checkpoints/checkpoint-3")
    boomerang.distill(Recipe.parse(recipe | {"training": training, "out": str(fewer)}))
    found = load_file(fewer / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_with_as_many_rows_in_a_step_only(
    directory: Path, two: dict[str, Outcome], recipe: dict[str, Any]
) -> None:
    """Two processes of 4 rows each were interrupted before they were done."""
    out = directory / "student"
    (out / "config.json").unlink()
    last = last_checkpoint(out / "checkpoints")
    assert last is not None and last.name == "checkpoint-3"
    content = recipe | {"shard": True}
    with pytest.raises(RecipeError, match=r"needs several processes.*torchrun"):
        boomerang.distill(Recipe.parse(content))
    with pytest.raises(OutputError, match=r"8 rows in a step, and now there are 4 \(4 x 1 micro"):
        boomerang.distill(Recipe.parse(recipe))


def test_how_a_step_is_split_makes_no_other_run(recipe: dict[str, Any]) -> None:
    def with_training(**fields: int) -> Recipe:
        return Recipe.parse(recipe | {"training": recipe["training"] | fields})

    split = with_training(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert split.differences(with_training()) == []
    assert split.differences(with_training(max_steps=5)) == ["training"]


def test_sharding_that_cannot_be_had_is_refused(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sharded = Recipe.parse(recipe | {"shard": True, "out": str(tmp_path / "out")})
    with pytest.raises(RecipeError, match=r"shard: needs several processes.*torchrun"):
        boomerang.distill(sharded)
    assert not (tmp_path / "out").exists()

    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    trainer = trainer_in(tmp_path)
    # There is no process group here, as with a backend that cannot do it.
    with pytest.raises(RecipeError, match="shard: cannot be done on cpu"):
        sharding.shard(trainer.module, args)

    for field in ({"fsdp": "full_shard"}, {"deepspeed": "zero3.json"}):
        training = recipe["training"] | field
        with pytest.raises(RecipeError, match=rf"training: {next(iter(field))}.*shard: true"):
            Recipe.parse(recipe | {"training": training})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match=r"accelerate launch.*shard: true"):
        training_arguments(
            Recipe.parse(recipe).resolved({"model_type": "llama", "num_hidden_layers": 5})
        )


def test_the_routes_that_are_compared() -> None:
    module = trainer_in(Path("unused")).module.train()
    assert module.seed == SEED
    names = [module.route(step).name for step in range(STEPS)]
    assert names == ["mirror", "switch", "student", "mirror"]
