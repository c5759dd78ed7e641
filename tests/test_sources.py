"""A command finds each model once, reads how the two go together once, and hashes each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import boomerang
from boomerang.checkpoint import sources
from boomerang.checkpoint.directory import Checkpoint
from boomerang.cli import app


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls by function and directory."""
    calls: Counter[str] = Counter()

    def count(target: Any, name: str, key: Callable[..., object]) -> None:
        original = getattr(target, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[f"{name} {key(*args)}"] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(target, name, call)

    count(sources, "resolve", lambda reference: Path(reference).name)
    count(sources, "_kept_layers", lambda *_: "")
    count(sources, "check_tokenizers", lambda *_: "")
    count(sources, "content_hash", lambda directory: directory.name)
    count(sources, "identify", lambda reference, *_: Path(reference).name)
    count(Checkpoint, "open", lambda directory: directory.name)
    return calls


@pytest.mark.parametrize(
    ("command", "hashed"),
    [
        (["sizes", "T", "S"], []),
        (["build", "T", "S", "OUT", "--patch", "1"], ["identify"]),
        (["build", "T", "S", "OUT", "--all"], ["identify"]),
        (["generate", "T", "S", "Once", "--max-new-tokens", "1", "--device", "cpu"], []),
        (["inspect", "T", "S", "--text", "TEXT", "--device", "cpu"], []),
        (
            ["evaluate", "T", "S", "OUT", "--text", "TEXT", "--device", "cpu"],
            ["content_hash", "identify"],
        ),
        (
            ["baseline", "naive", "T", "S", "OUT", "--text", "TEXT", "--device", "cpu"],
            ["content_hash"],
        ),
    ],
    ids=lambda value: "-".join(value[:1] + value[-1:]) if value[-1:] != value[:1] else None,
)
def test_a_command_finds_and_hashes_a_model_once(
    command: list[str], hashed: list[str], counted: Counter[str], stories: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    boomerang.init_student(stories, student, boomerang.LayerMap((0, 2, 4), 5))
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a small dog. " * 5)
    counted.clear()
    names = {"T": stories, "S": student, "OUT": tmp_path / "out", "TEXT": text}
    words = [str(names.get(word, word)) for word in command]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    for each in (stories.name, "student"):
        assert counted[f"resolve {each}"] == 1
        assert counted[f"open {each}"] <= 1
        for function in ("content_hash", "identify"):
            assert counted[f"{function} {each}"] <= 1
    found = {key.split()[0] for key in counted if key.endswith(stories.name)}
    assert found & {"content_hash", "identify"} == set(hashed)
    assert counted["_kept_layers "] == counted["check_tokenizers "] == 1
