"""A member's config: by rules on JSON, equal to what the config class itself would save."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
from transformers import AutoConfig, Gemma3Config, GPTNeoConfig, PretrainedConfig

from boomerang import LayerMap
from boomerang.errors import ConfigError
from boomerang.models.config import max_positions, member_config, num_layers
from boomerang.models.parts import max_positions as live_max_positions
from tiny_models import ARCHITECTURES, tiny_config

LAYERS = LayerMap([0, 1, 3, 5], 7)
MEMBERS = [LAYERS.member(blocks=blocks) for blocks in ((), (0,), (3,), (1, 2), (0, 1, 2, 3))]


def saved(config: PretrainedConfig) -> dict[str, Any]:
    return json.loads(config.to_json_string(use_diff=False))


def without_version(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "transformers_version"}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: str(member.patched))
def test_the_json_is_what_the_class_would_save(name: str, member: Any) -> None:
    teacher = saved(tiny_config(name, 7))
    before = copy.deepcopy(teacher)
    result = member_config(teacher, member.teacher_layers, tied=False)
    assert teacher == before
    assert num_layers(result) == member.num_layers
    assert result["tie_word_embeddings"] is False
    reloaded = AutoConfig.for_model(**result)
    assert without_version(saved(reloaded)) == without_version(result)


@pytest.mark.parametrize("name", ["qwen2", "gemma3_text"])
def test_each_position_keeps_the_type_its_source_layer_had(name: str) -> None:
    teacher = saved(tiny_config(name, 7))
    for member in MEMBERS:
        result = member_config(teacher, member.teacher_layers, tied=True)
        expected = [teacher["layer_types"][i] for i in member.teacher_layers]
        assert result["layer_types"] == expected


def test_dense_layers_of_a_mixture_are_renumbered() -> None:
    teacher = {
        "num_hidden_layers": 6,
        "mlp_only_layers": [1, 4],
        "decoder_sparse_step": 1,
    }
    for keys in (teacher, dict(reversed(teacher.items()))):
        assert member_config(keys, [0, 1, 3, 4], tied=False)["mlp_only_layers"] == [
            1,
            3,
        ]


@pytest.mark.parametrize("order", [1, -1])
def test_a_sparse_step_becomes_an_explicit_list(order: int) -> None:
    pairs = [
        ("num_hidden_layers", 6),
        ("mlp_only_layers", [1]),
        ("decoder_sparse_step", 2),
    ]
    result = member_config(dict(pairs[::order]), [0, 1, 3, 4], tied=False)
    # Dense in the teacher: 0, 2 and 4 by the step, 1 by the list.
    assert result["mlp_only_layers"] == [0, 1, 3]
    assert result["decoder_sparse_step"] == 1


def test_thresholds_are_counted_again() -> None:
    teacher = {
        "num_hidden_layers": 8,
        "first_k_dense_replace": 3,
        "max_window_layers": 28,
    }
    result = member_config(teacher, [0, 2, 4, 5], tied=False)
    assert result["first_k_dense_replace"] == 2
    assert result["max_window_layers"] == 28


@pytest.mark.parametrize("key", ["moe_layer_freq", "attn_type_list"])
def test_an_entry_for_each_layer_follows_its_layer(key: str) -> None:
    teacher = {"num_hidden_layers": 6, key: [0, 1, 2, 3, 4, 5]}
    assert member_config(teacher, [0, 2, 5], tied=False)[key] == [0, 2, 5]


def test_gpt_neo_s_counted_pattern_is_unrolled() -> None:
    teacher = saved(GPTNeoConfig(num_layers=6, attention_types=[[["global", "local"], 3]]))
    result = member_config(teacher, [0, 2, 3, 5], tied=True)
    reloaded = GPTNeoConfig(**result)
    assert reloaded.num_layers == 4
    assert reloaded.attention_layers == ["global", "global", "local", "local"]
    assert without_version(saved(reloaded)) == without_version(result)


def test_a_nested_text_config_is_followed_and_the_vision_part_left_alone() -> None:
    text = saved(tiny_config("gemma3_text", 7))
    vision = {"num_hidden_layers": 7, "hidden_size": 16, "num_attention_heads": 2}
    teacher = saved(Gemma3Config(text_config=text, vision_config=vision))
    result = member_config(teacher, [0, 1, 2, 4], tied=False)
    assert result["text_config"]["num_hidden_layers"] == 4
    assert result["text_config"]["tie_word_embeddings"] is False
    assert result["vision_config"] == teacher["vision_config"]
    assert without_version(saved(Gemma3Config(**result))) == without_version(result)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"sliding_window_pattern": 4}, "sliding_window_pattern"),
        ({"attn_layer_period": 8}, "attn_layer_period"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers"),
        ({"moe_layer_interval": 2}, "moe_layer_interval"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"moe_layer_freq": True}, "moe_layer_freq"),
        ({"moe_layer_freq": [0, 1]}, "moe_layer_freq"),
        ({"layer_switch": 4}, "layer_switch"),
        ({"attn_type_list": [1, 1]}, "attn_type_list"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"scale_depth": 1.4}, "scale_depth"),
        ({"something_new": [0, 1, 0, 1, 0, 1]}, "something_new"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": [1]}, "model_type"),
        ({"attention_types": [[["global"], 10**10]]}, "attention_types"),
        ({"attention_types": [[[], 10**10], [["global"], 6]]}, "attention_types"),
        ({"attention_types": [[["global"], 10**10], [["local"], 6 - 10**10]]}, "attention_types"),
        ({"attention_types": [[["global"], 2.0], [["local"], 4]]}, "attention_types"),
        ({"attention_types": [["global", "local", 3]]}, "attention_types"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_its_key(extra: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        member_config({"num_hidden_layers": 6, **extra}, [0, 2, 4], tied=False)
    assert caught.value.where == key


@pytest.mark.parametrize(
    "extra",
    [{"scale_attn_by_inverse_layer_idx": False}, {"layer_norm_eps": 1e-5}, {"layerdrop": 0.1},
     {"moe_layer_freq": 1}, {"moe_layer_interval": 1}, {"order_of_interleaved_layers": "x"},
     {"num_kv_shared_layers": 0}, {"eos_token_id": [1, 2, 3, 4, 5, 6]}],
)  # fmt: skip
def test_what_does_not_depend_on_depth_stays(extra: dict[str, Any]) -> None:
    result = member_config({"num_hidden_layers": 6, **extra}, [0, 2, 4], tied=False)
    assert {key: result[key] for key in extra} == extra


def test_an_end_of_the_experts_below_every_kept_layer_is_no_end_at_the_last() -> None:
    """The index -1 means the last layer, so that every layer would have experts."""
    teacher = {"num_hidden_layers": 6, "moe_layer_start_index": 1, "moe_layer_end_index": 2}
    for config in (teacher, dict(reversed(teacher.items()))):
        result = member_config(config, [3, 5], tied=False)
        assert result["moe_layer_start_index"] == 2 == result["num_hidden_layers"]
        result = member_config(config, [0, 2, 4], tied=False)
        assert (result["moe_layer_start_index"], result["moe_layer_end_index"]) == (1, 1)


def test_a_pattern_of_letters_is_sliced_and_a_list_of_types_gives_the_depth() -> None:
    letters = {"num_hidden_layers": 5, "hybrid_override_pattern": "M-M*-"}
    assert member_config(letters, [0, 3, 4], tied=False)["hybrid_override_pattern"] == "M*-"
    types = {"layers_block_type": ["mamba", "moe", "attention"]}
    assert num_layers(types) == 3
    assert member_config(types, [0, 2], tied=False)["layers_block_type"] == ["mamba", "attention"]


@pytest.mark.parametrize(
    "key",
    ["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"],
)
def test_the_most_tokens_are_found_under_any_name(key: str) -> None:
    assert max_positions({"num_hidden_layers": 2, key: 64}) == 64
    live = PretrainedConfig(num_hidden_layers=2, **{key: 64})
    assert live_max_positions(live) == 64


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "4"},
        {"n_layer": 2, "n_layers": 3},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**4000},
        {"text_config": {"num_hidden_layers": 4, "model_type": {}}},
    ],
)
def test_an_unclear_depth_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        num_layers(config)


def test_the_rules_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from boomerang.models.config import member_config;"
        "member_config({'num_hidden_layers': 2}, [0], tied=False);"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
