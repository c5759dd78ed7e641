"""Members in memory: the reference's numbers, shared storage, and independence from each other."""

from __future__ import annotations

import copy
import gc
import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from boomerang import Family, LayerMap
from boomerang.errors import (
    ArchitectureError,
    CheckpointError,
    ConfigError,
    LayerMapError,
)
from boomerang.models.parts import find_parts
from boomerang.student import cut
from tiny_models import ARCHITECTURES, tiny_config, tiny_model, tiny_pair

IDS = torch.tensor(
    [[1, 5, 9, 33, 60, 4, 7, 8, 12, 90, 45, 23], [7, 3, 2, 88, 1, 0, 6, 5, 4, 3, 2, 1]]
)


def logits(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits


def storages(*models: PreTrainedModel) -> set[int]:
    return {
        tensor.untyped_storage().data_ptr()
        for model in models
        for tensor in model.state_dict(keep_vars=True).values()
    }


def test_every_golden_member(golden_pair: Path) -> None:
    family = Family.from_pretrained(golden_pair / "teacher", golden_pair / "student")
    golden = load_file(golden_pair / "logits.safetensors")
    meta = json.loads((golden_pair / "meta.json").read_text())
    assert list(family.layers.kept) == meta["kept"]
    for direction, order in (("last", "last-to-first"), ("first", "first-to-last")):
        for k in range(family.layers.max_patch + 1):
            expected = golden["student" if k == 0 else f"{direction}_{k}"]
            model = family.model(patch=k, order=order)
            actual = logits(model, golden["input_ids"])
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        logits(family.model(patch=family.layers.max_patch), golden["input_ids"]),
        golden["teacher"], atol=1e-5, rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_members_share_storage_and_survive_saving(name: str, tied: bool, tmp_path: Path) -> None:
    teacher, student, layers = tiny_pair(name, tied)
    family = Family(teacher, student, layers)
    before = [copy.deepcopy(model.config.to_dict()) for model in (teacher, student)]
    torch.testing.assert_close(logits(family.model(patch=0)), logits(student), atol=0, rtol=0)
    torch.testing.assert_close(
        logits(family.model(patch=layers.max_patch)), logits(teacher), atol=0, rtol=0
    )
    for blocks in ((0,), (3,), (1, 2), (2, 3)):
        model = family.model(blocks=blocks)
        expected = logits(model)
        assert type(model) is type(teacher)
        assert storages(model) <= storages(teacher, student)
        assert model.config.num_hidden_layers == layers.member(blocks=blocks).num_layers
        model.tie_weights()
        torch.testing.assert_close(logits(model), expected, atol=0, rtol=0)
        model.save_pretrained(tmp_path / str(blocks))
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(blocks))
        torch.testing.assert_close(logits(reloaded), expected, atol=0, rtol=0)
        assert reloaded.config.tie_word_embeddings is model.config.tie_word_embeddings
    assert [model.config.to_dict() for model in (teacher, student)] == before


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_several_members_generate_side_by_side_with_cache(name: str) -> None:
    teacher, student, layers = tiny_pair(name)
    family = Family(teacher, student, layers)
    # Longer than the sliding windows, and two members that share layers at other positions.
    prompt = torch.randint(3, 97, (1, 14), generator=torch.Generator().manual_seed(0))
    members = [family.model(blocks=blocks) for blocks in ((0,), (3,), (0, 1, 2, 3))]
    for model in (*members, members[0]):
        settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
        cached = model.generate(prompt, use_cache=True, **settings)
        plain = model.generate(prompt, use_cache=False, **settings)
        assert cached.tolist() == plain.tolist()
        positions = [
            module.layer_idx
            for module in model.modules()
            if isinstance(getattr(module, "layer_idx", None), int)
        ]
        assert sorted(set(positions)) == list(range(model.config.num_hidden_layers))


@pytest.mark.parametrize("embedding", [True, False])
def test_tied_exactly_when_embedding_and_head_are_equal(embedding: bool) -> None:
    teacher, student, layers = tiny_pair("llama", tied=True)
    if embedding:  # as after training with a frozen embedding
        student.get_input_embeddings().weight.data.copy_(teacher.get_input_embeddings().weight)
    model = Family(teacher, student, layers).model(blocks=[3])
    assert model.config.tie_word_embeddings is embedding
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied is embedding


def test_a_loaded_family_keeps_one_copy_of_equal_tensors(tmp_path: Path) -> None:
    teacher, student, layers = tiny_pair("llama", tied=False)
    student.get_input_embeddings().weight.data.copy_(teacher.get_input_embeddings().weight)
    teacher.save_pretrained(tmp_path / "teacher")
    student.save_pretrained(tmp_path / "student")
    from boomerang.checkpoint.student_config import write_student_config

    write_student_config(tmp_path / "student", layers, order=[1, 0, 2, 3])
    family = Family.from_pretrained(tmp_path / "teacher", tmp_path / "student")
    theirs, ours = family.teacher, family.student
    assert ours.get_input_embeddings().weight is theirs.get_input_embeddings().weight
    assert ours.get_output_embeddings().weight is not theirs.get_output_embeddings().weight
    assert family.member(patch=1).patched == (0, 1)
    torch.testing.assert_close(logits(family.student), logits(student), atol=0, rtol=0)


def test_a_change_of_the_student_shows_in_members_alive() -> None:
    teacher, student, layers = tiny_pair("qwen3")
    family = Family(teacher, student, layers)
    model = family.model(blocks=[0])
    before = logits(model)
    with torch.no_grad():
        student.model.layers[2].mlp.down_proj.weight.mul_(2)
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("training", [True, False])
def test_a_member_is_in_the_teacher_s_mode_throughout(training: bool) -> None:
    teacher, student, layers = tiny_pair("llama")
    teacher.train(training)
    student.train(not training)
    model = Family(teacher, student, layers).model(blocks=[0])
    assert {module.training for module in model.modules()} == {training}
    assert {module.training for module in student.modules()} == {not training}


def test_ties_are_compared_again_after_a_change() -> None:
    teacher, student, layers = tiny_pair("llama", tied=True)
    family = Family(teacher, student, layers)
    assert not family.model(blocks=[3]).config.tie_word_embeddings
    with torch.no_grad():
        student.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight)
    assert family.model(blocks=[3]).config.tie_word_embeddings


def test_observers_of_a_model_stay_with_it() -> None:
    teacher, student, layers = tiny_pair("llama")
    calls = []
    teacher.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    teacher(IDS, output_hidden_states=True)  # installs transformers' own capturing hooks
    calls.clear()
    family = Family(teacher, student, layers)
    model = family.model(blocks=[0, 3])
    states = model(IDS, output_hidden_states=True).hidden_states
    assert not calls
    assert len(states) == model.config.num_hidden_layers + 1


def test_device_hooks_of_accelerate_call_the_member_s_own_modules() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    teacher, student, layers = tiny_pair("llama")
    expected = logits(Family(teacher, student, layers).model(blocks=[0]))
    for layer in (*teacher.model.layers, *student.model.layers):
        add_hook_to_module(layer.self_attn, ModelHook())
    model = Family(teacher, student, layers).model(blocks=[0])
    torch.testing.assert_close(logits(model), expected, atol=0, rtol=0)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    cached = model.generate(IDS, use_cache=True, **settings)
    assert cached.tolist() == model.generate(IDS, use_cache=False, **settings).tolist()


def test_a_member_of_36_layers_is_made_in_milliseconds() -> None:
    teacher = tiny_model("qwen3", 36)
    layers = LayerMap.every(2, num_layers=36)
    family = Family(teacher, copy.deepcopy(cut(teacher, layers)), layers)
    times = []
    gc.disable()
    try:
        for _ in range(5):
            start = time.process_time()
            family.model(patch=17)
            times.append(time.process_time() - start)
    finally:
        gc.enable()
    assert min(times) < 0.020


def test_a_multimodal_model_s_text_layers_are_patched() -> None:
    text = tiny_config("gemma3_text", 7).to_dict()
    vision = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    torch.manual_seed(0)
    teacher = Gemma3ForConditionalGeneration(config).eval()
    layers = LayerMap([0, 1, 3, 5], 7)
    student = copy.deepcopy(cut(teacher, layers))
    family = Family(teacher, student, layers)
    model = family.model(blocks=[1])
    assert model.config.text_config.num_hidden_layers == 5
    assert model.model.language_model.config is model.config.text_config
    assert logits(model).shape == (2, 12, 97)
    full = family.model(blocks=[0, 1, 2, 3])
    torch.testing.assert_close(logits(full), logits(teacher), atol=0, rtol=0)


def test_pairs_that_do_not_match_are_refused() -> None:
    teacher, student, layers = tiny_pair("llama")
    with pytest.raises(LayerMapError, match="7"):
        Family(teacher, student, LayerMap([0, 1, 3, 5], 8))
    with pytest.raises(LayerMapError, match="4"):
        Family(teacher, student, LayerMap([0, 1, 3], 7))
    with pytest.raises(ArchitectureError, match="Mistral"):
        Family(teacher, tiny_model("mistral", 4), layers)
    config = tiny_config("llama", 4)
    config.vocab_size = 98
    with pytest.raises(ArchitectureError, match="98x32 in the student and 97x32"):
        Family(teacher, type(student)(config), layers)


def test_an_architecture_whose_order_is_unknown_is_refused() -> None:
    config = OPTConfig(
        vocab_size=97, hidden_size=32, ffn_dim=32, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=32, do_layer_norm_before=True,
    )  # fmt: skip
    # Its final norm is registered before its layers: only the head proper comes after.
    model = OPTForCausalLM(config)
    with pytest.raises(ArchitectureError, match="final_layer_norm"):
        find_parts(model)


def test_attention_scaled_by_depth_is_refused() -> None:
    config = GPT2Config(
        n_embd=32,
        n_head=4,
        n_layer=4,
        vocab_size=97,
        scale_attn_by_inverse_layer_idx=True,
    )
    with pytest.raises(ConfigError) as caught:
        cut(GPT2LMHeadModel(config), LayerMap([0, 2], 4))
    assert caught.value.where == "scale_attn_by_inverse_layer_idx"


def test_a_directory_without_a_plan_or_weights_is_refused(tmp_path: Path, stories: Path) -> None:
    with pytest.raises(CheckpointError, match=r"student_config\.json"):
        Family.from_pretrained(stories, stories)
    config = json.loads((stories / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    (tmp_path / "student_config.json").write_text(
        '{"pruned_teacher_layers": [1, 3], "copied_teacher_layers": [0, 2, 4]}'
    )
    with pytest.raises(CheckpointError, match="safetensors"):
        Family.from_pretrained(stories, tmp_path)
