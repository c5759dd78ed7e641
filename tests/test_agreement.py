"""Two configs on the same layers."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from boomerang import LayerMap
from boomerang.checkpoint.compatibility import layer_settings
from boomerang.checkpoint.directory import Checkpoint
from boomerang.checkpoint.member_files import FamilyFiles
from boomerang.errors import ArchitectureError
from boomerang.models.config import Config, member_config
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
    FamilyFiles(changed[0], changed[1], LAYERS)


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


def test_layer_types_agree_in_old_words_and_new(tmp_path: Path) -> None:
    old = ["mamba", "attention", "mamba", "attention", "mamba", "attention", "mamba"]
    new = ["linear_attention", "full_attention", "full_attention", "full_attention"]
    agree(tmp_path, "llama", {"layer_types": old}, {"layer_types": new})
