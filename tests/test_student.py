"""Cutting a student: what is written, what is left alone, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
)

import boomerang
from boomerang import LayerMap, init_student
from boomerang.checkpoint.student_config import read_student_config
from boomerang.errors import ArchitectureError, CheckpointError, LayerMapError, OutputError
from boomerang.student import cut
from tiny_models import ARCHITECTURES, tiny_model


def test_the_student_of_a_real_model_opens_in_plain_transformers(
    stories: Path, tmp_path: Path
) -> None:
    layers = LayerMap([0, 2, 4], 5)
    out = init_student(stories, tmp_path / "student", layers)
    student = AutoModelForCausalLM.from_pretrained(out)
    teacher = AutoModelForCausalLM.from_pretrained(stories)
    assert student.config.num_hidden_layers == 3
    for i, kept in enumerate(layers.kept):
        expected = teacher.model.layers[kept].state_dict()
        for name, tensor in student.model.layers[i].state_dict().items():
            assert torch.equal(tensor, expected[name])
    assert torch.equal(student.model.norm.weight, teacher.model.norm.weight)
    tokens = AutoTokenizer.from_pretrained(out)("Once upon a time").input_ids
    assert tokens == AutoTokenizer.from_pretrained(stories)("Once upon a time").input_ids
    assert json.loads((out / "student_config.json").read_text()) == {
        "pruned_teacher_layers": [1, 3],
        "copied_teacher_layers": [0, 2, 4],
    }
    assert (out.stat().st_mode & 0o777) == (tmp_path.stat().st_mode & 0o777 | 0o055)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_live_teacher_is_never_edited(name: str, tmp_path: Path) -> None:
    teacher = tiny_model(name, 7)
    config = copy.deepcopy(teacher.config.to_dict())
    weights = copy.deepcopy(teacher.state_dict())
    out = init_student(teacher, tmp_path / "student", LayerMap([0, 1, 3, 5], 7))
    assert teacher.config.to_dict() == config
    assert len(weights) == len(teacher.state_dict())
    assert all(torch.equal(weights[key], value) for key, value in teacher.state_dict().items())
    assert [getattr(m, "layer_idx", None) for m in teacher.modules()] == [
        getattr(m, "layer_idx", None) for m in tiny_model(name, 7).modules()
    ]
    AutoModelForCausalLM.from_pretrained(out)


def test_the_random_control_has_the_shape_and_nothing_of_the_weights(
    stories: Path, tmp_path: Path
) -> None:
    layers = LayerMap([0, 2, 4], 5)
    cut = load_file(init_student(stories, tmp_path / "cut", layers) / "model.safetensors")
    again = [
        load_file(
            init_student(stories, tmp_path / name, layers, random=True, seed=seed)
            / "model.safetensors"
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    for name, tensor in again[0].items():
        assert tensor.shape == cut[name].shape
        assert torch.equal(tensor, again[1][name])
        if "norm" not in name:  # norms start at one, whatever the seed
            assert not torch.equal(tensor, cut[name])
            assert not torch.equal(tensor, again[2][name])


def test_a_plan_for_another_depth_is_refused_and_nothing_written(
    stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(LayerMapError, match="teacher has 5 layers and the kept layers make it 6"):
        init_student(stories, tmp_path / "student", LayerMap([0, 2, 4], 6))
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_use_is_refused_unless_overwritten(stories: Path, tmp_path: Path) -> None:
    layers = LayerMap([0, 2, 4], 5)
    out = tmp_path / "student"
    out.mkdir()
    (out / "precious").write_text("keep me")
    with pytest.raises(OutputError, match="not empty"):
        init_student(stories, out, layers)
    assert (out / "precious").read_text() == "keep me"
    with pytest.raises(OutputError, match="was not made by boomerang"):
        init_student(stories, out, layers, overwrite=True)
    assert (out / "precious").read_text() == "keep me"
    (out / "precious").rename(out / "student_config.json")
    init_student(stories, out, layers, overwrite=True)
    assert read_student_config(out)[0] == layers
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        init_student(stories, tmp_path / "file", layers, overwrite=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"copied_teacher_layers": [0, 2]}', "pruned_teacher_layers"),
        (
            '{"copied_teacher_layers": [0, 2], "pruned_teacher_layers": ["1"]}',
            "layer indices",
        ),
        (
            '{"copied_teacher_layers": [0, 2], "pruned_teacher_layers": [2]}',
            "partition",
        ),
        (
            '{"copied_teacher_layers": [1, 2], "pruned_teacher_layers": [0]}',
            "start at 1",
        ),
        (
            '{"copied_teacher_layers": [0, 2], "pruned_teacher_layers": [1], "order": [0]}',
            "permutation",
        ),
    ],
)
def test_a_student_config_that_contradicts_itself_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "student_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_student_config(tmp_path)


def test_a_student_config_that_contradicts_its_models_is_refused(
    golden_pair: Path, tmp_path: Path
) -> None:
    for path in (golden_pair / "student").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "student_config.json").write_text(
        '{"copied_teacher_layers": [0, 2], "pruned_teacher_layers": [1]}'
    )
    with pytest.raises(LayerMapError, match="layers"):
        boomerang.Family.from_pretrained(golden_pair / "teacher", tmp_path)


def test_layers_that_depend_on_their_position_are_refused() -> None:
    config = DiffLlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=32, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    with pytest.raises(ArchitectureError, match=r"lambda_init .* depends on the layer's position"):
        cut(DiffLlamaForCausalLM(config), LayerMap([0, 2, 4], 5))


def test_config_and_tokenizer_keep_the_teachers_spelling(stories: Path, tmp_path: Path) -> None:
    """They would be spelt another way by transformers."""
    teacher = tmp_path / "teacher"
    shutil.copytree(stories, teacher)
    config = json.loads((teacher / "config.json").read_text())
    config = {key: value for key, value in config.items() if key != "dtype"}
    config |= {"torch_dtype": "float32", "rope_scaling": None, "pretraining_tp": 1}
    (teacher / "config.json").write_text(json.dumps(config))
    tokens = json.loads((teacher / "tokenizer_config.json").read_text())
    (teacher / "tokenizer_config.json").write_text(json.dumps(tokens | {"pad_token": "<pad>"}))
    out = init_student(teacher, tmp_path / "student", LayerMap([0, 2, 4], 5))
    expected = config | {"num_hidden_layers": 3, "tie_word_embeddings": True}
    assert json.loads((out / "config.json").read_text()) == expected
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (teacher / name).read_bytes()
