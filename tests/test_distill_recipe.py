from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

import boomerang
from boomerang.distill.recipe import Loss, Preset, Recipe
from boomerang.distill.training_fields import check_training
from boomerang.errors import RecipeError
from boomerang.layers import LayerMap
from boomerang.settings import read_yaml

MINIMAL: dict[str, Any] = {
    "teacher": "teacher",
    "keep": [0, 2],
    "out": "out",
    "data": {"files": ["a.txt"], "sequence_length": 8},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**MINIMAL, **changes}.items() if value is not None}


LLAMA: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": 4}
QWEN = LLAMA | {"model_type": "qwen3"}


def test_the_papers_preset_holds_its_values() -> None:
    recipe = Recipe.parse(changed(preset="paper"))
    assert recipe.loss == Loss()
    loss = recipe.loss
    assert (loss.ce, loss.kl, loss.alignment, loss.temperature) == (1, 0.1, 2, 1)
    assert (loss.distance, recipe.mode, recipe.switch, recipe.mirror) == ("cosine", "clean", 0, 0)
    assert recipe.training["learning_rate"] == 3e-4


@pytest.mark.parametrize("preset", get_args(Preset))
def test_every_preset_is_a_recipe(preset: str) -> None:
    content = changed(preset=preset)
    recipe = Recipe.parse(content).resolved(QWEN)
    check_training(recipe.training)
    assert Recipe.parse(recipe.model_dump()) == recipe
    # Its values hold wherever the recipe says nothing, and only there.
    other = Recipe.parse({**content, "loss": {"ce": 0.5}, "training": {"max_steps": 7}})
    assert other.loss == recipe.loss.model_copy(update={"ce": 0.5})
    assert other.training == recipe.training | {"max_steps": 7}


def test_presets_differ_as_they_say() -> None:
    paper, ours, reference, adapt = (
        Recipe.parse(changed(preset=name)).resolved(QWEN)
        for name in ("paper", "boomerang", "reference", "adapt")
    )
    assert ours == Recipe.parse(MINIMAL).resolved(QWEN)
    assert set(paper.differences(ours)) == {"preset", "loss", "mirror", "freeze"}
    assert set(paper.differences(reference)) == {"preset", "mode", "data"}
    assert set(paper.differences(adapt)) == {"preset", "loss"}
    # 10/(M+1) for each pair.
    assert adapt.loss.alignment == 10
    assert (reference.mode, reference.data.packing) == ("reference", False)


def test_switch_points_follow_the_order() -> None:
    recipe = Recipe.parse(MINIMAL)
    for config, order, switch, mirror in (
        (LLAMA, "first-to-last", 0.25, 0.0),
        (QWEN, "last-to-first", 0.0, 0.5),
    ):
        resolved = recipe.resolved(config)
        assert (resolved.order, resolved.switch, resolved.mirror) == (order, switch, mirror)
    listed = Recipe.parse(changed(order=[1, 0])).resolved(QWEN)
    assert (listed.order, listed.switch, listed.mirror) == ([1, 0], 0.0, 0.0)
    own = Recipe.parse(changed(order="first-to-last", switch=0.1, mirror=0.2)).resolved(QWEN)
    assert (own.order, own.switch, own.mirror) == ("first-to-last", 0.1, 0.2)


def test_a_run_is_as_long_as_the_recipe_says_whichever_way() -> None:
    assert Recipe.parse(MINIMAL).training["max_steps"] == 500
    recipe = Recipe.parse(changed(training={"num_train_epochs": 2}))
    assert "max_steps" not in recipe.training
    assert Recipe.parse(recipe.model_dump()) == recipe


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(tempreature=1), ["tempreature", "unknown key"]),
        (changed(loss={"klx": 1}), ["loss.klx", "did you mean kl?"]),
        (changed(loss={"weight": 1}), ["loss.weight", "ce, kl, alignment"]),
        (changed(loss={"ce": 0, "kl": 0, "alignment": 0}), ["loss", "all 0"]),
        (changed(loss={"ce": -1}), ["loss.ce", "greater than or equal to 0", "-1"]),
        (changed(loss={"temperature": 0}), ["loss.temperature", "greater than 0"]),
        (changed(loss={"distance": "euclid"}), ["loss.distance", "cosine"]),
        (changed(teacher=None), ["teacher", "missing"]),
        (changed(keep=None), ["no student", "`student`", "`keep`"]),
        (changed(keep={"every": 2, "frist": 1}), ["keep.frist", "first"]),
        (changed(switch=0.7, mirror=0.7), ["switch + mirror"]),
        (changed(switch=1.5), ["switch", "less than or equal to 1"]),
        (changed(freeze=["layers"]), ["freeze", "embedding", "head"]),
        (changed(mode="reference"), ["data.packing"]),
        (
            changed(
                mode="reference", data={"files": ["a"], "sequence_length": 8, "packing": False}
            ),
            ["switch", "mirror", "preset"],
        ),
        (changed(preset="papers"), ["preset", "'paper'", "'papers'"]),
        (changed(order="lst"), ["order", "last-to-first", "'lst'"]),
        (changed(evaluate={"members": [-1]}), ["evaluate.members.0", "greater than or equal to 0"]),
        (changed(evaluate={"member": [1]}), ["evaluate.member", "did you mean members?"]),
        (changed(evaluate={"members": [1]}), ["evaluate.members", "data.held_out"]),
        (changed(training={"enable_jit_checkpoint": True}), ["enable_jit_checkpoint", "SIGTERM"]),
        (changed(data={"files": [], "sequence_length": 8}), ["data.files"]),
        (changed(training={"learning_rte": 1}), ["training", "did you mean learning_rate?"]),
        (changed(training={"output_dir": "x"}), ["training", "output_dir", "`out`"]),
        (changed(training={"max_steps": "ten"}), ["training", "max_steps", "integer", "'ten'"]),
        (changed(training={"per_device_train_batch_size": 0}), ["batch_size is 0", "at least 1"]),
        (changed(training={"neftune_noise_alpha": 5.0}), ["neftune_noise_alpha", "embeddings"]),
        (changed(training={"auto_find_batch_size": True}), ["auto_find_batch_size", "recipe"]),
        (
            changed(training={"accelerator_config": {"split_batches": True}}),
            ["accelerator_config", "one process"],
        ),
        (changed(training={"eval_strategy": "steps"}), ["data.held_out"]),
        (changed(model={"attn": "eager"}), ["model.attn", "attn_implementation"]),
        (changed(data={"files": ["a"], "sequence_length": 8, "separator": "x"}), ["separator"]),
        ({**MINIMAL, 1: 2}, ["1: unknown key"]),
    ],
)
def test_mistakes_are_named_in_one_line(content: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.parse(content, where="recipe.yaml")
    message = str(error.value)
    assert message.startswith("recipe.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_recipe_made_in_python_is_refused_the_same_way() -> None:
    with pytest.raises(RecipeError, match=r"^loss\.ce: .*greater than or equal to 0, not -1"):
        boomerang.Recipe(**changed(loss={"ce": -1}))
    assert boomerang.Recipe(**MINIMAL) == Recipe.parse(MINIMAL)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("teacher: a\nout: b\nteacher: c\n", "line 3: teacher is given twice, first in line 1"),
        ("data:\n  files: [a]\n  files: [b]\n", "line 3: files is given twice, first in line 2"),
        ("a: {b: 1, c: 2, b: 3}", "line 1: b is given twice"),
        ("a: 2026-13-45", "r.yaml: is not YAML .month must be in"),
        ("? [a]\n: 1", "r.yaml: is not YAML"),
        ("a: " + "[" * 5000, "r.yaml: is not YAML .nested too deep"),
    ],
)
def test_yaml_that_loses_or_hides_something_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words) as error:
        Recipe.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_merged_key_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n")
    assert read_yaml(path)["c"] == {"x": 3, "y": 1}


def test_a_key_given_twice_inside_a_value_is_refused() -> None:
    with pytest.raises(RecipeError, match="loss: line 1: kl is given twice"):
        Recipe.parse({}, ["loss={kl: 1, kl: 2}"])


def test_yaml_words_mean_what_transformers_takes_them_for(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    Recipe.parse(MINIMAL).save(path)
    recipe = Recipe.load(path, ["training.save_strategy=no", "training.use_cpu=true"])
    assert recipe.training["save_strategy"] == "no"
    assert recipe.training["use_cpu"] is True
    recipe.save(path)
    assert Recipe.load(path) == recipe


def test_what_is_saved_is_what_was_loaded(tmp_path: Path) -> None:
    recipe = Recipe.parse(changed(freeze=["head"], training={"max_steps": 3}, switch=0.25))
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_overrides_reach_nested_keys_and_read_numbers_as_people_do(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    Recipe.parse(MINIMAL).save(path)
    recipe = Recipe.load(
        path,
        ["loss.kl=1", "training.learning_rate=2e-3", "keep={every: 2, last: 1}", "freeze=[head]"],
    )
    assert recipe.loss.kl == 1
    assert recipe.training["learning_rate"] == 2e-3
    assert recipe.freeze == ["head"]
    assert recipe.layers(6).kept == (0, 2, 4, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_steps", 0),
        ("max_steps", -5),
        ("save_steps", 0),
        ("eval_steps", 0),
        ("per_device_train_batch_size", 0),
    ],
)
def test_training_values_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"{field} is .* must be"):
        Recipe.parse(changed(training={field: value}))


@pytest.mark.parametrize("override", ["loss.kl", "=1", "teacher.name=x", "loss.kl=[", "nothing=1"])
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    path = tmp_path / "r.yaml"
    Recipe.parse(MINIMAL).save(path)
    with pytest.raises(RecipeError):
        Recipe.load(path, [override])


@pytest.mark.parametrize("text", ["- 1", "a: [", ""])
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        Recipe.load(path)
    with pytest.raises(RecipeError, match=r"none\.yaml"):
        Recipe.load(tmp_path / "none.yaml")


def test_recipes_differ_in_what_they_say_not_in_where_they_write() -> None:
    one = Recipe.parse(MINIMAL)
    assert one.differences(Recipe.parse(changed(out="elsewhere", shard=True))) == []
    assert one.differences(Recipe.parse(changed(seed=1, freeze=["head"]))) == ["freeze", "seed"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(keep=[0, 9]), r"^keep: kept layer 9 is out of range; .* layers 0 to 3$"),
        (changed(keep={"every": 2, "last": 5}), "^keep: cannot keep the first 1 and last 5 of 4"),
        (changed(order=[0, 1, 2]), r"^order: .*no permutation of the student layers 0 to 1"),
        (
            changed(
                evaluate={"members": [3]},
                data={"files": ["a"], "sequence_length": 8, "held_out": 1},
            ),
            r"^evaluate\.members: patch is 3; give a number from 0 to 2",
        ),
    ],
)
def test_layers_and_members_must_fit_the_teacher(content: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe.parse(content).resolved(QWEN)


def test_a_few_members_are_chosen_from_the_whole_family() -> None:
    def members(layers: LayerMap, **changes: Any) -> list[int]:
        data = {"files": ["a"], "sequence_length": 8, "held_out": 1}
        recipe = Recipe.parse(changed(order="last-to-first", data=data, **changes))
        return list(recipe.members(layers))

    layers = LayerMap.every(2, num_layers=36)
    assert members(layers) == [1, 9, 16]
    assert members(LayerMap((0, 2, 3), 4)) == []
    assert members(layers, evaluate={"members": []}) == []
    # The student is measured anyway.
    assert members(layers, evaluate={"members": [0, 1]}) == [1]


def phased(*phases: int, **changes: Any) -> dict[str, Any]:
    sources = [{"files": ["a"], "phase": phase} for phase in phases]
    return changed(data={"sources": sources, "sequence_length": 8}, **changes)


def test_sources_belong_to_phases() -> None:
    assert Recipe.parse(MINIMAL).data.phases == [[0]]
    assert Recipe.parse(phased(2, 1, 2)).data.phases == [[1], [0, 2]]
    with pytest.raises(RecipeError, match=r"^data: phases are \[1, 3\]: count them from 1"):
        Recipe.parse(phased(1, 3))
    with pytest.raises(RecipeError, match=r"phases are shares .* set training\.max_steps"):
        Recipe.parse(phased(1, 2, training={"num_train_epochs": 1}))
