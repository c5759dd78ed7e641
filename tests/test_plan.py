"""What goes where: names, conventions, dtypes and ties, and everything that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import boomerang
from boomerang.checkpoint.convert import converter
from boomerang.checkpoint.sources import Sources
from boomerang.errors import ArchitectureError, BoomerangError, CheckpointError, LayerMapError
from boomerang.models.names import read_layout
from boomerang.verify import verify
from disk import save_pair

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Tensors = dict[str, torch.Tensor]


def change_weights(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def built(teacher: Path, student: Path, out: Path, **choice: Any) -> Tensors:
    return load_file(boomerang.build(teacher, student, out, **choice) / "model.safetensors")


# Names


def shapes(*names: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(names, (2, 2))


DECODER = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def test_experts_are_no_layers() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.w" for i in range(3) for e in range(3)]
    layout = read_layout(shapes(*DECODER, *names), 3, where="x")
    assert layout.stack == "model.layers."
    assert layout.layers == (("mlp.experts.0.w", "mlp.experts.1.w", "mlp.experts.2.w"),) * 3
    assert layout.embedding == ("model.embed_tokens.weight",)
    assert layout.head == ("lm_head.weight", "model.norm.weight")


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["model.layers.0.a", "model.layers.2.a"], "layer 1 is missing"),
        (["model.layers.0.a", "model.layers.1.a", "model.layers.2.a"], "layer 2 is one too many"),
        (
            ["model.layers.0.a", "model.layers.1.a", "tower.layers.0.a", "tower.layers.1.a"],
            "several",
        ),
        (["model.layers.0.a", "model.layers.1.a", "model.projector.weight"], "projector"),
        (["model.layers.0.a", "model.layers.1.a", "model.layers.01.a"], "model.layers.01.a"),
        (["model.layers.a"], "no numbered layers"),
    ],
)
def test_unclear_layouts_are_refused(names: list[str], word: str) -> None:
    with pytest.raises(ArchitectureError, match=word):
        read_layout(shapes(*DECODER, *names), 2, where="x")


def test_missing_ends_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="embedding"):
        read_layout(shapes("model.norm.weight", "model.layers.0.a"), 1, where="x")
    with pytest.raises(ArchitectureError, match="head"):
        read_layout(shapes("model.embed_tokens.weight", "model.layers.0.a"), 1, where="x")


def test_the_output_matrix_in_its_forms() -> None:
    layers = ["model.layers.0.a", "model.norm.weight", "model.embed_tokens.weight"]
    for names, matrix, packed in (
        ([], None, False),
        (["lm_head.weight", "lm_head.bias"], "lm_head.weight", False),
        (["lm_head.bias"], None, False),
        (["lm_head.dense.weight", "lm_head.norm.weight"], None, False),
        (["lm_head.dense.weight", "decoder.weight", "decoder.bias"], "decoder.weight", False),
        (["lm_head.qweight", "lm_head.scales"], None, True),
        (["lm_head.weight", "lm_head.weight_scale"], "lm_head.weight", False),
    ):
        layout = read_layout(shapes(*layers, *names), 1, where="x")
        assert (layout.output_matrix, layout.packed_output) == (matrix, packed)
    with pytest.raises(ArchitectureError, match="decoder"):
        read_layout(shapes(*layers, "lm_head.decoder.weight"), 1, where="x")


def test_layers_for_further_tokens_are_left_out() -> None:
    names = [f"model.layers.{i}.a" for i in range(3)] + [
        "mtp.layers.0.a", "model.mtp.b", "model.mtp_block.0.a", "model.mtp_emb_norm.0.weight",
        "model.mtp_hidden_norm.0.weight", "model.mtp_linear_proj.0.weight",
    ]  # fmt: skip
    layout = read_layout(shapes(*DECODER, *names), 2, extra_layers=1, where="x")
    assert layout.layers == (("a",), ("a",))
    assert layout.head == ("lm_head.weight", "model.norm.weight")


def test_layers_for_further_tokens_are_not_announced_either(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    change_weights(teacher, add("model.layers.7.eh_proj.weight"))
    change_json(teacher / "config.json", num_nextn_predict_layers=1)
    found = built(teacher, student, tmp_path / "out", patch=3)
    assert not any("layers.7." in name for name in found)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0


@pytest.mark.parametrize("count", [10**12, 0, -1, True, 2.0, "7", None])
def test_an_absurd_number_of_layers_is_refused(count: object, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    change_json(teacher / "config.json", num_hidden_layers=count)
    with pytest.raises(BoomerangError):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)


def test_buffers_are_left_out_and_a_bias_of_their_name_is_not() -> None:
    dropped = {
        "h.0.attn.bias": (1, 1, 4, 4),
        "h.0.attn.masked_bias": (),
        "h.0.attention.rotary_emb.inv_freq": (4,),
    }
    kept = {"h.0.mlp.attention.bias": (4,), "wte.weight": (4, 4), "ln_f.weight": (4,)}
    layout = read_layout(dropped | kept, 1, where="x")
    assert layout.layers == (("mlp.attention.bias",),)


@pytest.mark.parametrize("bare", ["teacher", "student"])
def test_one_convention_of_names_comes_out(bare: str, tmp_path: Path) -> None:
    """Hub files of GPT-2 lack the base prefix and carry the causal mask as a buffer."""
    paths = save_pair(tmp_path, "gpt2")
    expected = built(*paths, tmp_path / "expected", patch=1)

    def strip(tensors: Tensors) -> Tensors:
        masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 4, 4) for i in range(4)}
        return masks | {name.removeprefix("transformer."): t for name, t in tensors.items()}

    change_weights(tmp_path / bare, strip)
    found = built(*paths, tmp_path / "found", patch=1)
    if bare == "teacher":
        expected = {name.removeprefix("transformer."): t for name, t in expected.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


# Dtypes


@pytest.mark.parametrize("target", TORCH)
@pytest.mark.parametrize("source", TORCH)
def test_rounds_as_torch_does(source: str, target: str) -> None:
    if target == "F64":
        pytest.skip("no checkpoint is written in float64")
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**63), 2**63 - 1, (4000,), generator=generator)
    special = torch.tensor([0.0, -0.0, 1.0, 65504.0, 65520.0, 1e-8, 6e-8, 3.4e38, 1e-40, 1e300])
    special = torch.cat(
        [special, -special, torch.tensor([float("inf"), -float("inf"), float("nan")])]
    )
    # Exactly between two bfloat16 or float16 numbers, just above and just below.
    ties = 1 + torch.arange(64) / 256 + 1 / 512
    ties = torch.cat([ties, ties.double().nextafter(torch.tensor(9.0).double()).float(), ties / 8])
    values = torch.cat(
        [bits.view(torch.uint8).view(TORCH[source]), torch.cat([special, ties]).to(TORCH[source])]
    )
    raw = converter(source, target)(values.view(torch.uint8).numpy().tobytes())
    found = torch.frombuffer(bytearray(raw), dtype=TORCH[target])
    expected = values.to(TORCH[target])
    assert len(raw) == len(values) * TORCH[target].itemsize
    assert torch.equal(found.isnan(), expected.isnan())
    real = ~expected.isnan()
    whole = torch.int16 if TORCH[target].itemsize == 2 else torch.int32
    assert torch.equal(found.view(whole)[real], expected.view(whole)[real])


@given(st.binary(min_size=4, max_size=64))
def test_any_float32_becomes_the_same_bfloat16(raw: bytes) -> None:
    raw = raw[: len(raw) // 4 * 4]
    found = torch.frombuffer(bytearray(converter("F32", "BF16")(raw)), dtype=torch.bfloat16)
    expected = torch.frombuffer(bytearray(raw), dtype=torch.float32).bfloat16()
    assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
    assert torch.equal(found.isnan(), expected.isnan())


def test_what_cannot_be_converted_is_refused() -> None:
    for pair in (("F8_E4M3", "BF16"), ("BF16", "I32"), ("I64", "F32")):
        with pytest.raises(CheckpointError):
            converter(*pair)


def test_conversion_runs_over_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save_pair(tmp_path, "llama")
    expected = built(*paths, tmp_path / "a", patch=1, dtype="bfloat16")
    monkeypatch.setattr("boomerang.checkpoint.convert.PIECE", 7)
    found = built(*paths, tmp_path / "b", patch=1, dtype="bfloat16")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_teachers_dtype_is_the_default(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama", tied=True)
    # One norm stays in float32, as routers do in real models.
    norm = "model.layers.0.input_layernorm.weight"
    change_weights(teacher, lambda ts: {n: t if n == norm else t.bfloat16() for n, t in ts.items()})
    change_json(teacher / "config.json", dtype="bfloat16")
    out = tmp_path / "out"
    found = built(teacher, student, out, patch=1, order="last-to-first")
    source = load_file(student / "model.safetensors")
    for name, tensor in found.items():
        assert tensor.dtype == (torch.float32 if name == norm else torch.bfloat16)
        if name in source and name.startswith(("model.layers.0.", "model.embed")):
            assert torch.equal(tensor, source[name].to(tensor.dtype))
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_is_written_everywhere(dtype: str, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    change_json(teacher / "config.json", dtype=..., torch_dtype="float32")
    found = built(teacher, student, tmp_path / "out", patch=1, dtype=dtype)
    assert {tensor.dtype for tensor in found.values()} == {getattr(torch, dtype)}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == dtype and "dtype" not in config


def test_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="int8"):
        boomerang.build(*save_pair(tmp_path, "llama"), tmp_path / "out", patch=1, dtype="int8")


# Ties


def test_tied_exactly_when_equal_after_conversion(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama", tied=True)
    table = "model.embed_tokens.weight"
    half = load_file(teacher / "model.safetensors")[table].bfloat16().float()
    change_weights(teacher, lambda tensors: tensors | {table: half})
    # Differs from the teacher's in float32 and rounds to it in bfloat16.
    near = half * (1 + 2**-12)
    change_weights(student, lambda tensors: tensors | {table: near})
    apart = built(teacher, student, tmp_path / "a", patch=1)
    assert "lm_head.weight" in apart
    assert json.loads((tmp_path / "a" / "config.json").read_text())["tie_word_embeddings"] is False
    tied = built(teacher, student, tmp_path / "b", patch=1, dtype="bfloat16")
    assert "lm_head.weight" not in tied
    assert json.loads((tmp_path / "b" / "config.json").read_text())["tie_word_embeddings"] is True


def test_untied_twins_become_one(tmp_path: Path) -> None:
    """Both matrices are in the files and equal: the member needs one."""
    teacher, student = save_pair(tmp_path, "llama", tied=False)
    for path in (teacher, student):
        change_weights(
            path, lambda ts: ts | {"lm_head.weight": ts["model.embed_tokens.weight"] + 0}
        )
    assert "lm_head.weight" not in built(teacher, student, tmp_path / "out", patch=0)


def test_a_promised_output_matrix_must_be_there(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama", tied=False)

    def without_head(tensors: Tensors) -> Tensors:
        return {name: t for name, t in tensors.items() if name != "lm_head.weight"}

    change_weights(teacher, without_head)
    with pytest.raises(CheckpointError, match="no output matrix"):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)


@pytest.mark.parametrize(
    ("name", "matrix"), [("gpt_neox", "embed_out.weight"), ("gpt2", "lm_head.weight")]
)
def test_an_untied_member_of_a_tied_teacher_names_its_matrix(
    name: str, matrix: str, tmp_path: Path
) -> None:
    paths = save_pair(tmp_path, name, tied=True)
    assert matrix in built(*paths, tmp_path / "out", patch=1)


# Quantised weights


def quantise(directory: Path, method: str = "fp8") -> None:
    def change(tensors: Tensors) -> Tensors:
        result = dict(tensors)
        for name, tensor in tensors.items():
            if name.endswith("proj.weight"):
                result[name] = tensor.to(torch.float8_e4m3fn)
                result[f"{name}_scale_inv"] = torch.ones(1, 1)
        return result

    change_weights(directory, change)
    change_json(directory / "config.json", quantization_config={"quant_method": method})


def test_quantised_weights_are_copied_as_bytes(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    quantise(teacher)
    with pytest.raises(ArchitectureError, match="quantization_config"):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)
    quantise(student)
    found = built(teacher, student, tmp_path / "out", patch=1, order="first-to-last")
    source = load_file(teacher / "model.safetensors")
    for name in ("mlp.up_proj.weight", "mlp.up_proj.weight_scale_inv"):
        name = f"model.layers.2.{name}"
        assert found[name].dtype == source[name].dtype
        assert torch.equal(found[name].float(), source[name].float())
    with pytest.raises(CheckpointError, match="quantised"):
        boomerang.build(teacher, student, tmp_path / "other", patch=1, dtype="bfloat16")
    change_json(student / "config.json", quantization_config={"quant_method": "other"})
    with pytest.raises(ArchitectureError, match="quantization_config"):
        boomerang.build(teacher, student, tmp_path / "other", patch=1)


def test_quantised_weights_of_other_dtypes_are_refused(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    quantise(teacher)
    quantise(student)
    change_weights(
        student, lambda ts: {n: t.bfloat16() if "norm" in n else t for n, t in ts.items()}
    )
    with pytest.raises(ArchitectureError, match="norm"):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)


# What does not fit


def drop(word: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if word not in name}


def add(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.zeros(2)}


MISFITS: dict[str, tuple[Callable[[Tensors], Tensors], type[BoomerangError], str]] = {
    "layer missing": (drop("layers.1."), ArchitectureError, "layer 1"),
    "layer extra": (add("model.layers.4.a"), ArchitectureError, "layer 4"),
    "tensor missing": (drop("layers.1.mlp.up"), ArchitectureError, "mlp.up_proj.weight"),
    "tensor extra": (add("model.layers.1.more"), ArchitectureError, "more"),
    "norm missing": (drop("model.norm"), ArchitectureError, "model.norm.weight"),
    "something unknown": (add("model.adapter.weight"), ArchitectureError, "model.adapter.weight"),
    "another width": (
        lambda ts: {n: t.repeat(2) if n == "model.norm.weight" else t for n, t in ts.items()},
        ArchitectureError,
        "model.norm.weight",
    ),
    "another vocabulary": (
        lambda ts: {n: t[:50] if "embed" in n else t for n, t in ts.items()},
        CheckpointError,
        "vocab_size",
    ),
    "whole numbers": (
        lambda ts: {n: t.int() if n == "model.norm.weight" else t for n, t in ts.items()},
        ArchitectureError,
        "I32",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_student_that_does_not_fit_is_refused(misfit: str, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    change, error, word = MISFITS[misfit]
    change_weights(student, change)
    with pytest.raises(error, match=word):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "mistral"),
        ("rms_norm_eps", 0.1),
        ("num_attention_heads", 2),
        ("hidden_act", "gelu"),
    ],
)
def test_a_student_with_other_settings_is_refused(key: str, value: object, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    change_json(student / "config.json", **{key: value})
    with pytest.raises(ArchitectureError, match=key):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)


def test_a_plan_that_contradicts_the_files_is_refused(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    plan = student / "student_config.json"
    for kept, pruned in (([0, 1, 3], [2, 4, 5, 6]), ([0, 1, 3, 5], [2, 4, 6, 7])):
        plan.write_text(
            json.dumps({"copied_teacher_layers": kept, "pruned_teacher_layers": pruned})
        )
        with pytest.raises(LayerMapError, match="layers"):
            _ = Sources.open(teacher, student).files
    plan.unlink()
    with pytest.raises(CheckpointError, match=r"student_config\.json"):
        _ = Sources.open(teacher, student).files


@pytest.mark.parametrize("damage", ["missing", "renamed", "reshaped", "retyped"])
@pytest.mark.parametrize("layer", [2, 3])  # kept are 0, 1, 3 and 5
def test_a_damaged_layer_is_found_beside_its_siblings(
    damage: str, layer: int, tmp_path: Path
) -> None:
    """Also where the student was cut from it afterwards, and has the same damage."""
    teacher, student = save_pair(tmp_path, "llama")
    for path, index in ((teacher, layer), (student, 2)):
        if path == student and layer == 2:
            continue
        weights = load_file(path / "model.safetensors")
        name = f"model.layers.{index}.mlp.down_proj.weight"
        tensor = weights.pop(name)
        if damage == "renamed":
            weights[f"model.layers.{index}.mlp.other.weight"] = tensor
        if damage == "reshaped":
            weights[name] = tensor.T.contiguous()
        if damage == "retyped":
            weights[name] = tensor.to(torch.int8)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"layer {layer} differs from every layer of its"):
        _ = Sources.open(teacher, student).files


def test_a_student_with_other_rotary_settings_is_refused(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    config = json.loads((student / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 5.0
    (student / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArchitectureError, match=r"rope_theta is 5\.0"):
        _ = Sources.open(teacher, student).files


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_what_a_class_keeps_in_float32_is_not_narrowed(stored: torch.dtype, tmp_path: Path) -> None:
    """The corrections of a router of GLM-4.5, in a teacher of float32 and of bfloat16."""
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["glm4_moe"].from_dict(GLM)).to(stored)
    for name, buffer in model.named_buffers():
        if name.endswith("correction_bias"):
            buffer.data = torch.randn(buffer.shape)
    model.save_pretrained(tmp_path / "teacher")
    layers = boomerang.LayerMap((0, 2), 4)
    boomerang.init_student(tmp_path / "teacher", tmp_path / "student", layers)
    out = tmp_path / "member"
    boomerang.build(tmp_path / "teacher", tmp_path / "student", out, patch=1, dtype="bfloat16")
    written = load_file(out / "model.safetensors")
    kept = {name for name, tensor in written.items() if tensor.dtype == torch.float32}
    assert kept == {name for name in written if name.endswith("e_score_correction_bias")} != set()
    assert {tensor.dtype for tensor in written.values()} == {torch.float32, torch.bfloat16}
    result = verify(out)
    assert result.passed, result.difference


GLM = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "pad_token_id": 0, "eos_token_id": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
