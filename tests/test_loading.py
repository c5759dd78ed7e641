"""What is found wrong when a model or tokenizer is loaded: one line, whoever loads it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import boomerang
from boomerang.checkpoint.directory import Checkpoint
from boomerang.checkpoint.loading import (
    _check_finite,
    continuation,
    load_model,
    load_tokenizer,
)
from boomerang.checkpoint.resolve import resolve
from boomerang.checkpoint.sources import Source
from boomerang.errors import ArchitectureError, CheckpointError
from boomerang.verify import verify
from disk import save_pair
from tiny_models import tiny_pair

LAYERS = boomerang.LayerMap((0, 2, 4), 5)


@pytest.fixture
def copied(stories: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stories, tmp_path / "teacher"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_found_with_its_tensor(copied: Path, value: float) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][5, 7] = value
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.3\.mlp\.up_proj.* NaN or infinite"):
        load_model(copied)


def test_a_buffer_that_is_not_a_number_is_found(tmp_path: Path) -> None:
    teacher = tiny_pair("gpt_neox")[0]
    teacher.get_input_embeddings().register_buffer("scale", torch.tensor([1.0, float("nan")]))
    with pytest.raises(CheckpointError, match=r"embed_in\.scale has NaN or infinite"):
        _check_finite(teacher, tmp_path)


def test_what_a_narrow_dtype_cannot_hold_is_found(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    load_model(copied)
    with pytest.raises(CheckpointError, match=r"infinite values in torch\.float16"):
        load_model(copied, dtype=torch.float16)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_model(path),
        lambda path: Checkpoint.open(path),
        lambda path: boomerang.init_student(path, path.parent / "student", LAYERS),
        lambda path: boomerang.Family.from_pretrained(path, path),
    ],
)
def test_an_adapter_beside_a_model_is_refused(copied: Path, read: Callable[[Path], object]) -> None:
    (copied / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has an adapter .* merge"):
        read(copied)
    assert not (copied.parent / "student").exists()


def test_an_unfit_tensor_is_named_with_both_shapes(tmp_path: Path) -> None:
    teacher, _ = save_pair(tmp_path, "llama")
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(CheckpointError, match=r"down_proj.weight is 32x48 and its config .*32x40"):
        load_model(teacher)


def test_why_a_tokenizer_cannot_be_read_is_said(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no readable tokenizer \(\w+: .{10}") as caught:
        load_tokenizer(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs another user")
def test_a_directory_of_another_user_is_refused_in_one_line(stories: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        model = Path(shutil.copytree(stories, Path(directory) / "model"))
        model.chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)"):
                resolve(model)
        finally:
            os.seteuid(0)


def test_a_quantisation_that_stands_in_a_file_of_its_own_is_seen(tmp_path: Path) -> None:
    teacher, _ = save_pair(tmp_path, "llama")
    (teacher / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert Checkpoint.open(teacher).is_quantised
    (teacher / "model.safetensors").unlink()
    with pytest.raises(ArchitectureError, match="is of a quantised model"):
        _ = Source.open(teacher, weights=False).checkpoint


@pytest.mark.parametrize("value", ["512", [512]])
def test_a_length_that_is_no_number_is_refused(copied: Path, value: object) -> None:
    content = json.loads((copied / "tokenizer_config.json").read_text())
    content["model_max_length"] = value
    (copied / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: model_max_length is"):
        load_tokenizer(copied)


def test_a_generation_config_that_cannot_be_used_is_one_line(copied: Path) -> None:
    content = json.loads((copied / "generation_config.json").read_text())
    content |= {"num_beams": 2.5}
    (copied / "generation_config.json").write_text(json.dumps(content))
    out = boomerang.init_student(copied, copied.parent / "student", LAYERS)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: generation fails"):
        continuation(load_model(out), load_tokenizer(out), "Once", 2)
    boomerang.build(copied, out, copied.parent / "member", patch=1)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: generation fails"):
        verify(copied.parent / "member")
