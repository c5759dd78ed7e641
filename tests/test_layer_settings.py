"""Two configs on the same layers, and values that no config can have."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boomerang import LayerMap
from boomerang.checkpoint.directory import Checkpoint
from boomerang.checkpoint.member_plan import Pair
from boomerang.errors import ArchitectureError, ConfigError
from boomerang.models.config import Config, member_config
from boomerang.models.expand import with_layer_types
from boomerang.models.layer_settings import layer_settings
from boomerang.models.values import check_values
from disk import save_pair
from tiny_models import ARCHITECTURES

LAYERS = LayerMap((0, 1, 3, 5), 7)
KEPT = LAYERS.kept


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No class is asked."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


def agree(tmp_path: Path, name: str, teacher: Config, student: Config) -> None:
    """Check a pair whose configs say something else; a key set to ... is left out."""
    paths = save_pair(tmp_path, name)
    both = [Checkpoint.open(path) for path in paths]
    changed = [
        replace(one, config={k: v for k, v in (one.config | more).items() if v is not ...})
        for one, more in zip(both, (teacher, student), strict=True)
    ]
    Pair(changed[0], changed[1], LAYERS)


TYPES = ["sliding_attention", "full_attention"] * 3 + ["sliding_attention"]
KEPT_TYPES = [TYPES[i] for i in KEPT]
STALE: dict[str, tuple[str, Config, Config]] = {
    "layer_types": ("qwen3", {"layer_types": TYPES}, {"layer_types": TYPES[:4]}),
    "layer_types, too long": ("qwen3", {"layer_types": TYPES}, {"layer_types": TYPES}),
    "sliding_window_pattern": (
        "gemma3_text",
        {"layer_types": TYPES},
        {"layer_types": ..., "sliding_window_pattern": 2, "_sliding_window_pattern": ...},
    ),
    "max_window_layers": (
        "qwen2",
        {"layer_types": ["full_attention"] * 3 + ["sliding_attention"] * 4},
        {"layer_types": ..., "use_sliding_window": True, "sliding_window": 8,
         "max_window_layers": 3},
    ),
    "first_k_dense_replace": (
        "llama", {"first_k_dense_replace": 3}, {"first_k_dense_replace": 3}
    ),
    "moe_layers": ("llama", {"moe_layers": [3, 5]}, {"moe_layers": [3]}),
    "full_attn_idxs": ("llama", {"full_attn_idxs": [3, 5]}, {"full_attn_idxs": [3, 5]}),
    "mlp_only_layers": (
        "llama",
        {"mlp_only_layers": [5], "decoder_sparse_step": 1},
        {"mlp_only_layers": [], "decoder_sparse_step": 1},
    ),
    "no_rope_layers": (
        "llama",
        {"no_rope_layers": [1, 1, 0, 1, 1, 0, 1]},
        {"no_rope_layers": [1, 1, 0, 1, 1, 0, 1]},
    ),
    "moe_layer_end_index": ("llama", {"moe_layer_end_index": 3}, {"moe_layer_end_index": 3}),
}  # fmt: skip


@pytest.mark.parametrize("case", STALE)
def test_a_student_that_says_something_else_is_refused(case: str, tmp_path: Path) -> None:
    name, teacher, student = STALE[case]
    with pytest.raises(ArchitectureError, match=case.partition(",")[0]):
        agree(tmp_path, name, teacher, student)


SAME: dict[str, tuple[str, Config, Config]] = {
    "no list": ("qwen3", {"layer_types": TYPES}, {"layer_types": ...}),
    "no key": ("llama", {"first_k_dense_replace": 3, "moe_layers": [1]}, {}),
    "another word": (
        "qwen3",
        {"layer_types": TYPES},
        {"layer_types": [{"full_attention": "attention"}.get(t, t) for t in KEPT_TYPES]},
    ),
    "no window": (
        "qwen2",
        {"layer_types": ["full_attention"] * 7, "max_window_layers": 3},
        {"layer_types": ..., "use_sliding_window": False, "max_window_layers": 3},
    ),
    "all below": (
        "llama", {"first_k_dense_replace": 7, "mlp_only_layers": [0, 3]},
        {"first_k_dense_replace": 28, "mlp_only_layers": [0, 2]},
    ),
    "the last of all": ("llama", {"moe_layer_end_index": -1}, {"moe_layer_end_index": 3}),
    "behind the types": (
        "qwen3",
        {"layer_types": TYPES, "full_attn_idxs": [1, 3, 5]},
        {"layer_types": KEPT_TYPES, "full_attn_idxs": [1, 3, 5]},
    ),
    "more entries than layers": (
        "llama", {"attn_type_list": [1] * 7}, {"attn_type_list": [1] * 7}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_a_student_that_says_the_same_or_nothing_passes(case: str, tmp_path: Path) -> None:
    agree(tmp_path, *SAME[case])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_member_says_what_it_is_made_of(name: str, tmp_path: Path) -> None:
    teacher, _ = save_pair(tmp_path, name)
    config = json.loads((teacher / "config.json").read_text())
    settings = layer_settings(config)
    member = layer_settings(member_config(config, KEPT, tied=False))
    assert settings.keys() == member.keys()
    for key in ("layer_types", "mlp_layer_types"):
        if key in settings:
            assert member[key] == [settings[key][i] for i in KEPT]


# Values of another kind


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layer_types", "full_attention"),
        ("layer_types", ["full_attention", 1]),
        ("sliding_window", "4096"),
        ("sliding_window", 0),
        ("sliding_window", True),
        ("quantization_config", "fp8"),
        ("tie_word_embeddings", "false"),
        ("tie_word_embeddings", 1),
        ("rms_norm_eps", "1e-6"),
        ("rms_norm_eps", None),
        ("rms_norm_eps", float("nan")),
        ("rope_theta", [1e4]),
        ("per_layer_config", {"0": 1}),
        ("num_nextn_predict_layers", 10**12),
        ("num_nextn_predict_layers", -1),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_key(key: str, value: Any) -> None:
    text = {"num_hidden_layers": 2, "model_type": "gemma3_text", key: value}
    for config in (text, {"text_config": text}):
        with pytest.raises(ConfigError, match=key):
            check_values(config, "somewhere")
        with pytest.raises(ConfigError, match=key):
            with_layer_types(config, Path("somewhere"))


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_it_is_refused_in_either_model(who: str, tmp_path: Path) -> None:
    teacher, student = (
        {"rope_theta": "1e4"} if who == each else {} for each in ("teacher", "student")
    )
    with pytest.raises(ConfigError, match=f"{who}: its config's rope_theta"):
        agree(tmp_path, "llama", teacher, student)


def test_null_is_no_value_of_another_kind() -> None:
    keys = ("layer_types", "sliding_window", "quantization_config", "tie_word_embeddings",
            "rope_theta", "per_layer_config", "num_nextn_predict_layers")  # fmt: skip
    check_values({"num_hidden_layers": 2} | dict.fromkeys(keys), "somewhere")


def test_a_window_that_is_switched_off_may_be_zero() -> None:
    off = {"num_hidden_layers": 2, "use_sliding_window": False, "sliding_window": 0}
    check_values(off, "somewhere")
    with pytest.raises(ConfigError, match="sliding_window"):
        check_values(off | {"use_sliding_window": True}, "somewhere")
