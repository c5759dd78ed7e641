"""Configs of older versions, whose layer types only their classes know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from boomerang.architecture.config import member_config
from boomerang.architecture.expand import leaves_types_open, with_layer_types
from boomerang.errors import ConfigError
from tiny_models import tiny_config


def old(name: str, **changes: Any) -> dict[str, Any]:
    """A tiny config as transformers 4 wrote it: without layer types."""
    config = json.loads(tiny_config(name, 6).to_json_string(use_diff=False))
    config |= {"transformers_version": "4.51.3", "layer_types": None} | changes
    return {key: value for key, value in config.items() if value is not None}


def save(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def types(directory: Path, config: dict[str, Any]) -> list[str]:
    found: list[str] = AutoConfig.from_pretrained(save(directory, config)).layer_types
    return found


def test_gemma3_by_its_pattern(tmp_path: Path) -> None:
    config = old("gemma3_text", sliding_window_pattern=3)
    expanded = with_layer_types(config, save(tmp_path, config))
    expected = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    assert expanded["layer_types"] == expected
    assert "layer_types" not in config
    kept = [0, 2, 3, 5]
    member = member_config(expanded, kept, tied=True)
    assert types(tmp_path, member) == [expected[i] for i in kept]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask transformers in this process, where it is imported already."""
    monkeypatch.setattr(
        "boomerang.architecture.expand._expanded",
        lambda directory: AutoConfig.from_pretrained(directory).to_dict(),
    )


@pytest.mark.usefixtures("at_once")
def test_qwen2_by_its_threshold(tmp_path: Path) -> None:
    config = old("qwen2", max_window_layers=3)
    expanded = with_layer_types(config, save(tmp_path, config))
    assert expanded["layer_types"] == ["full_attention"] * 3 + ["sliding_attention"] * 3


@pytest.mark.usefixtures("at_once")
def test_a_nested_config_is_expanded_inside(tmp_path: Path) -> None:
    text = old("gemma3_text", sliding_window_pattern=3)
    config = {"model_type": "gemma3", "text_config": text, "transformers_version": "5.0.0"}
    expanded = with_layer_types(config, save(tmp_path, config))
    assert expanded["text_config"]["layer_types"].count("full_attention") == 2
    assert "layer_types" not in config["text_config"]


@pytest.mark.usefixtures("at_once")
def test_a_window_on_all_layers_needs_no_types(tmp_path: Path) -> None:
    config = old("mistral")
    assert leaves_types_open(config)
    assert with_layer_types(config, save(tmp_path, config)) == config


def test_most_configs_are_taken_as_they_are(tmp_path: Path, configs: Path) -> None:
    for path in configs.glob("*.json"):
        assert not leaves_types_open(json.loads(path.read_text()))
    assert not leaves_types_open(old("qwen3", sliding_window=4096, use_sliding_window=False))
    assert not leaves_types_open(json.loads(tiny_config("mistral").to_json_string()))
    assert not leaves_types_open(json.loads(tiny_config("gemma3_text").to_json_string()))


def test_a_config_nobody_knows_is_refused(tmp_path: Path) -> None:
    config = old("mistral", model_type="unheard_of")
    with pytest.raises(ConfigError, match="transformers cannot read it"):
        with_layer_types(config, save(tmp_path, config))
