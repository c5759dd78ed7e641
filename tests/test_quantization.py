"""Layer numbers in what a config says about quantised weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import boomerang
from boomerang.errors import ArchitectureError, CheckpointError, ConfigError
from boomerang.models.config import member_config
from boomerang.models.quantization import names_layers
from disk import save_pair

LAYERS = [0, 2, 5]


def member(said: Any, layers: list[int] = LAYERS, **more: Any) -> Any:
    config = {"num_hidden_layers": 6, "quantization_config": said} | more
    return member_config(config, layers, tied=False)["quantization_config"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp", "model.layers.5.mlp"]},
            {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp", "model.layers.2.mlp"]},
        ),
        # Layer 1 is not in the member, and layer 6 predicts further tokens.
        ({"ignore": ["layers.1", "layers.6.a", "layers.2"]}, {"ignore": ["layers.1"]}),
        (
            {"transformer.h.5.attn": {"bits": 8}, "transformer.h.1.attn": {"bits": 4}},
            {"transformer.h.2.attn": {"bits": 8}},
        ),
        ([["layers.5.experts.5.w"]], [["layers.2.experts.5.w"]]),
        (
            {"groups": {"group_0": {"targets": ["re:.*layers\\.\\d+\\.mlp$", "Linear"]}}},
            {"groups": {"group_0": {"targets": ["re:.*layers\\.\\d+\\.mlp$", "Linear"]}}},
        ),
        ({"ignore": ["model.layers.*.mlp", "re:.*layers.[0-9]+.w1"]}, ...),
        ({"version": "0.10.2", "quantizer": ["auto:0.7.1"], "fmt": "v1.2.3"}, ...),
        ({"ignore": ["vision_tower.encoder.layers.5.mlp", "model.visual.blocks.1"]}, ...),
        (None, None),
    ],
)
def test_names_are_renumbered_and_nothing_else(said: Any, expected: Any) -> None:
    before = json.dumps(said)
    assert member(said) == (said if expected is ... else expected)
    assert json.dumps(said) == before


@pytest.mark.parametrize("key", ["quantization_config", "quantization", "compression_config"])
def test_wherever_it_is_kept(key: str) -> None:
    text = {"num_hidden_layers": 6, key: {"ignore": ["layers.5"]}}
    for config in (
        text,
        {"text_config": text},
        {"text_config": {**text, key: None}, **{key: text[key]}},
    ):
        made = member_config(config, LAYERS, tied=False)
        found = made.get(key) or made["text_config"][key]
        assert found == {"ignore": ["layers.2"]}


@pytest.mark.parametrize(
    "name",
    [
        "re:model.layers.1.mlp",
        "re:.*\\.3\\..*",
        "+:.*\\.18\\..*gate.*",
        "model.layers.1*",
        "model.layers.[0-2].mlp",
        ".*layers\\.(0|5)\\.mlp",
        "model.experts.3.w1",
    ],
)
def test_what_cannot_be_renumbered_is_refused_by_its_key(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        member({"a": {"ignore": ["lm_head", name]}})
    assert caught.value.where == "quantization_config.a.ignore"
    with pytest.raises(ConfigError):
        member({name: 1})
    # All the layers at their places.
    assert member({name: 1}, [0, 1, 2, 3, 4, 5]) == {name: 1}
    assert names_layers({"a": [{name: 1}]})


def test_a_number_too_long_to_read_is_no_layer() -> None:
    assert member({"ignore": [f"layers.{'9' * 5000}.mlp"]}) == {"ignore": []}


# On disk: the feed-forward parts of two layers are not quantised


KEPT = {"teacher": (0, 5), "student": (0, 3)}


def quantised(directory: Path) -> tuple[Path, Path]:
    paths = save_pair(directory, "qwen3")
    for path in paths:
        whole = KEPT[path.name]
        weights = load_file(path / "model.safetensors")
        for name, tensor in weights.items():
            if ".mlp." in name and not any(f"layers.{i}." in name for i in whole):
                weights[name] = tensor.to(torch.float8_e4m3fn)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        say(path, whole)
    return paths


def say(path: Path, whole: tuple[int, ...]) -> None:
    config = json.loads((path / "config.json").read_text())
    names = [f"model.layers.{i}.mlp" for i in whole]
    config["quantization_config"] = {"quant_method": "fp8", "modules_to_not_convert": names}
    (path / "config.json").write_text(json.dumps(config))


def test_what_a_member_says_is_true_of_its_weights(tmp_path: Path) -> None:
    teacher, student = quantised(tmp_path)
    out = boomerang.build(teacher, student, tmp_path / "out", patch=1)
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    weights = load_file(out / "model.safetensors")
    plain = [
        name.removesuffix(".up_proj.weight")
        for name, tensor in weights.items()
        if name.endswith("up_proj.weight") and tensor.dtype == torch.float32
    ]
    assert said["modules_to_not_convert"] == sorted(plain)
    assert len(plain) == 2


def test_a_student_with_the_teachers_numbers_is_refused(tmp_path: Path) -> None:
    teacher, student = quantised(tmp_path)
    say(student, KEPT["student"][::-1])
    boomerang.build(teacher, student, tmp_path / "out", patch=1)
    say(student, KEPT["teacher"])
    with pytest.raises(ArchitectureError, match="quantization_config"):
        boomerang.build(teacher, student, tmp_path / "other", patch=1)
    assert not (tmp_path / "other").exists()


def test_modelopts_file_comes_along_unless_it_names_layers(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    file = teacher / "hf_quant_config.json"
    file.write_text(json.dumps({"quantization": {"exclude_modules": ["lm_head"]}}))
    out = boomerang.build(teacher, student, tmp_path / "out", patch=1)
    assert (out / file.name).read_bytes() == file.read_bytes()
    file.write_text(json.dumps({"quantization": {"exclude_modules": ["model.layers.0*"]}}))
    with pytest.raises(CheckpointError, match=file.name):
        boomerang.build(teacher, student, tmp_path / "other", patch=1)
    assert not (tmp_path / "other").exists()
    whole = boomerang.build(teacher, student, tmp_path / "whole", blocks=[0, 1, 2, 3])
    assert (whole / file.name).read_bytes() == file.read_bytes()
