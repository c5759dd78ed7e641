"""Configs of older versions, whose layer types only their classes know."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import CONFIG_MAPPING, AutoConfig

from boomerang.checkpoint.directory import Checkpoint
from boomerang.errors import ArchitectureError, ConfigError
from boomerang.models import layer_types
from boomerang.models.config import PER_LAYER_LISTS, PERIODIC_RULES, member_config
from boomerang.models.layer_types import (
    ALL_ALIKE,
    known_layer_types,
    leaves_types_open,
    with_layer_types,
)
from disk import save_pair
from tiny_models import tiny_config

SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}


def old(name: str, **changes: Any) -> dict[str, Any]:
    """A tiny config as transformers 4 wrote it: without layer types."""
    config = json.loads(tiny_config(name, 6).to_json_string(use_diff=False))
    config |= {"transformers_version": "4.51.3", "layer_types": None} | changes
    config.pop("_sliding_window_pattern", None)
    return {key: value for key, value in config.items() if value is not None}


def save(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def types(directory: Path, config: dict[str, Any]) -> list[str]:
    found: list[str] = AutoConfig.from_pretrained(save(directory, config)).layer_types
    return found


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask transformers in this process, where it is imported already."""

    def seen(directory: Path) -> tuple[bool, dict[str, Any]]:
        config = AutoConfig.from_pretrained(directory)
        nested = "text_config" in config.sub_configs
        return nested, (config.text_config if nested else config).to_dict()

    monkeypatch.setattr(layer_types, "_seen", seen)


@pytest.mark.usefixtures("alone")
def test_gemma3_by_its_pattern(tmp_path: Path) -> None:
    config = old("gemma3_text", sliding_window_pattern=3)
    expanded = with_layer_types(config, save(tmp_path, config))
    expected = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    assert expanded["layer_types"] == expected
    assert "layer_types" not in config
    kept = [0, 2, 3, 5]
    member = member_config(expanded, kept, tied=True)
    assert types(tmp_path, member) == [expected[i] for i in kept]


@pytest.mark.usefixtures("alone")
def test_qwen2_by_its_threshold(tmp_path: Path) -> None:
    config = old("qwen2", max_window_layers=3)
    expanded = with_layer_types(config, save(tmp_path, config))
    assert expanded["layer_types"] == ["full_attention"] * 3 + ["sliding_attention"] * 3


@pytest.mark.usefixtures("alone")
def test_most_configs_are_taken_as_they_are(tmp_path: Path, configs: Path) -> None:
    known = [json.loads(path.read_text()) for path in configs.glob("*.json")]
    known += [
        old("qwen3", sliding_window=4096, use_sliding_window=False),
        old("mistral"),
        json.loads(tiny_config("mistral").to_json_string()),
        json.loads(tiny_config("gemma3_text").to_json_string()),
    ]
    for config in known:
        assert with_layer_types(config, tmp_path) is config


@pytest.mark.parametrize(
    "name", ["cohere2", "gemma2", "gemma3_text", "qwen2", "qwen3", "qwen3_next"]
)
@pytest.mark.parametrize("count", [1, 7, 13])
def test_known_types_are_those_of_the_class(name: str, count: int) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"sliding_window": 8},
        {"sliding_window": 8, "sliding_window_pattern": 5},
        {"sliding_window": 8, "sliding_window_pattern": 5, "layer_switch": 5},
        {"sliding_window": 8, "layer_switch": 4},
        {"full_attention_interval": 3},
        {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3},
        {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 40},
        {"sliding_window": 8, "use_sliding_window": True},
        {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 3},
        {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 3},
    ]
    answers = 0
    for setting in settings:
        config = {"model_type": name, "num_hidden_layers": count} | SHAPE | setting
        computed = CONFIG_MAPPING[name].from_dict(config).layer_types
        known = known_layer_types(config, count)
        answers += known is not None
        assert known in (None, computed)
        if known is None and not leaves_types_open(config):
            assert set(computed) == {"full_attention"}
    assert answers >= 2


@pytest.mark.parametrize("name", sorted(ALL_ALIKE & set(CONFIG_MAPPING)))
def test_classes_whose_layers_are_all_alike_know_no_types(name: str) -> None:
    keys = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}
    config = CONFIG_MAPPING[name].from_dict({"num_hidden_layers": 7} | SHAPE | keys).to_dict()
    # A width for each layer is taken from the config alone.
    assert not config.keys() & (PER_LAYER_LISTS | PERIODIC_RULES) - {"intermediate_size"}
    modeling = Path(transformers.__file__).parent / f"models/{name}/modeling_{name}.py"
    text = modeling.read_text()
    assert "sliding_window" in text
    assert "layer_types" not in text and "max_window_layers" not in text


@pytest.mark.usefixtures("at_once")
def test_a_nested_config_is_expanded_inside(tmp_path: Path) -> None:
    text = old("gemma3_text", sliding_window_pattern=3)
    config = {"model_type": "gemma3", "text_config": text, "transformers_version": "5.0.0"}
    expanded = with_layer_types(config, save(tmp_path, config))
    assert expanded["text_config"]["layer_types"].count("full_attention") == 2
    assert "layer_types" not in config["text_config"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "text_config": old("llama")},
        # The class's default, which it takes from no key at all.
        {"model_type": "llama", "text_config": old("llama", num_hidden_layers=32)},
        {"model_type": "llama", "num_hidden_layers": 4, "text_config": {}},
        {"model_type": "gemma3", "num_hidden_layers": 6, "text_config": old("gemma3_text")},
    ],
)
def test_a_depth_that_the_class_does_not_read_is_refused(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="where transformers does not look"):
        with_layer_types(config, save(tmp_path, config))


@pytest.mark.usefixtures("alone")
def test_a_depth_that_the_tensors_contradict_is_refused_before_anything_is_expanded(
    tmp_path: Path,
) -> None:
    teacher, _ = save_pair(tmp_path, "mistral")
    config = json.loads((teacher / "config.json").read_text())
    for name, depth in (("qwen2_moe", 8), ("gemma2", 9999), ("mistral", 10**9)):
        changes = {"model_type": name, "num_hidden_layers": depth, "use_sliding_window": True}
        save(teacher, config | changes)
        with pytest.raises((ArchitectureError, ConfigError), match="layers"):
            Checkpoint.open(teacher, expand=True)


def test_the_class_is_asked_in_another_process(tmp_path: Path) -> None:
    # A window in every other layer below a threshold: no rule here knows that.
    window = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}
    config = {"model_type": "qwen2_moe", "num_hidden_layers": 4} | SHAPE | window
    expanded = with_layer_types(config, save(tmp_path, config))
    assert expanded["layer_types"] == types(tmp_path, config)
    assert len(set(expanded["layer_types"])) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are kept on Linux alone")
def test_it_may_take_so_much_memory_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_types, "_MEMORY_BEYOND_IMPORT", 64 * 1024 * 1024)
    config = {"model_type": "gpt_neo", "num_layers": 4, "sliding_window": 8}
    config |= {"attention_types": [[["global"], 10**10]]}
    with pytest.raises(ConfigError, match=r"transformers cannot read it \(.*MemoryError"):
        with_layer_types(config, save(tmp_path, config))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print()", "no answer"),
        ("pass", "no answer"),
        ("print('[1]')", "no answer"),
        ("import os; os.write(2, b'\\xff' * 999 + b' \\n'); os._exit(1)", r"\W{200}\)"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9"),
        ("import time; time.sleep(60)", "no answer in 0.5 s"),
    ],
)
def test_no_answer_is_an_error(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_types, "_SCRIPT", script)
    monkeypatch.setattr(layer_types, "_SECONDS", 0.5 if "sleep" in script else 60)
    with pytest.raises(ConfigError, match=reason):
        with_layer_types(old("mistral", model_type="unheard_of"), tmp_path)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    # The script as it is, with an endless wait in the place of the import.
    script = layer_types._SCRIPT.replace(
        "from transformers import", "import time; time.sleep(60) #"
    )
    started = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    code = (
        "from pathlib import Path; from boomerang.models import layer_types;"
        f"layer_types._SCRIPT = {started + script!r};"
        "layer_types._seen(Path('.'))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        pid = _wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        assert not _is_gone(int(pid))
        parent.send_signal(signal.SIGKILL)
    assert _wait_for(lambda: _is_gone(int(pid)))


def _wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 20
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Ended, and still to be waited for by whoever adopted it.
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z " in stat.read_text()
