"""The pretraining tool: exact resumption, its data order, and the checkpoint it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOOLS = Path(__file__).parents[1] / "tools"
SENTENCES = "The cat sat on the mat. A fox ran by, and the cat looked up at it.\n\n"
SMALL = ["--layers=2", "--width=16", "--heads=2", "--batch=2", "--length=32", "--threads=1"]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.delitem(sys.modules, "pretrain_demo_teacher", raising=False)
    import pretrain_demo_teacher

    return pretrain_demo_teacher


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    folder.mkdir()
    for split, count in (("train", 20), ("valid", 5), ("test", 5)):
        first, second = SENTENCES * count, "Ein Füchslein — ¡olé!\n\n" * count
        (folder / f"{split}.txt").write_text(first + "\n\n\n" + second, encoding="utf-8")
    rows = [{"split": "train", "author": "Anon", "title": "Foxes", "year": 1900}]
    (folder / "list.json").write_text(json.dumps(rows))
    return folder


def run(tool: ModuleType, books: Path, work: Path, *options: str) -> int:
    threads = torch.get_num_threads()
    try:
        return tool.main(
            ["--books", str(books), "--work", str(work), *SMALL, "--device=cpu", *options]
        )
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)


def signal_at(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal while it makes the given step (0-based)."""
    original = tool.Run.step

    def step_and_signal(self: Any) -> Any:
        if self.progress.step == step:
            os.kill(os.getpid(), number)
        return original(self)

    monkeypatch.setattr(tool.Run, "step", step_and_signal)


def events(work: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (work / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("at", [1, 3], ids=["held", "decaying"])
def test_an_interrupted_run_ends_bitwise_like_an_uninterrupted_one(
    tool: ModuleType, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    options = ["--steps", "5", "--decay", "3", "--warmup", "2"]
    run(tool, books, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        signal_at(tool, patch, at, signal.SIGTERM)
        run(tool, books, tmp_path / "parts", *options)
    assert not (tmp_path / "parts" / "teacher").exists()
    assert torch.load(tmp_path / "parts" / "checkpoint.pt")["progress"]["step"] == at + 1
    run(tool, books, tmp_path / "parts", *options)
    whole, parts = (
        load_file(tmp_path / name / "teacher" / "model.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_held_state_goes_on_as_if_it_had_never_decayed(
    tool: ModuleType, books: Path, tmp_path: Path
) -> None:
    run(tool, books, tmp_path / "long", "--steps", "6", "--decay", "2")
    run(tool, books, tmp_path / "short", "--steps", "4", "--decay", "2")
    run(tool, books, tmp_path / "short", "--steps", "6", "--decay", "2", "--from-hold")
    states = [torch.load(tmp_path / name / "checkpoint.pt") for name in ("long", "short")]
    assert states[0]["progress"]["step"] == states[1]["progress"]["step"] == 6
    assert all(
        torch.equal(states[0]["model"][k], states[1]["model"][k]) for k in states[0]["model"]
    )


def test_a_signal_begins_the_decay_early(
    tool: ModuleType, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at(tool, monkeypatch, 1, signal.SIGUSR1)
    run(tool, books, tmp_path / "work", "--steps", "1000", "--decay", "2")
    state = torch.load(tmp_path / "work" / "checkpoint.pt")
    assert state["progress"]["step"] == 4
    assert events(tmp_path / "work") == ["start", "decay", "test"]


def test_the_budget_in_minutes_counts_a_long_pause_as_one_minute(
    tool: ModuleType, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**9, 10**6))
    monkeypatch.setattr(tool.time, "monotonic", lambda: next(clock))
    run(tool, books, tmp_path / "work", "--minutes", "5", "--evaluate-minutes", "2")
    state = torch.load(tmp_path / "work" / "checkpoint.pt")
    assert state["progress"]["seconds"] == 300
    assert state["progress"]["step"] == 5
    assert events(tmp_path / "work").count("valid") == 2


def test_a_run_of_other_settings_is_refused(tool: ModuleType, books: Path, tmp_path: Path) -> None:
    run(tool, books, tmp_path / "work", "--steps", "1")
    with pytest.raises(SystemExit, match="other settings"):
        run(tool, books, tmp_path / "work", "--steps", "1", "--seed", "1")
    (books / "train.txt").write_text(SENTENCES * 30)
    with pytest.raises(SystemExit, match="other books"):
        run(tool, books, tmp_path / "work", "--steps", "1")


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_the_teacher_is_a_plain_checkpoint_with_a_tokenizer_for_any_text(
    tool: ModuleType, books: Path, tmp_path: Path, architecture: str
) -> None:
    run(tool, books, tmp_path / "work", "--steps", "1", "--architecture", architecture)
    folder = tmp_path / "work" / "teacher"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == architecture
    assert model.config.use_cache and model.config.tie_word_embeddings
    state = torch.load(tmp_path / "work" / "checkpoint.pt")["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = " Ünseen bytes: \t日本 <b>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    card = (folder / "README.md").read_text()
    assert "- Anon, Foxes\n" in card
    assert "| layers, width | 2 x 16, 2 heads |" in card


def test_end_of_text_stands_between_books_only(
    tool: ModuleType, books: Path, tmp_path: Path
) -> None:
    data = tool.prepare_data(books, tmp_path, 300)
    stream = np.asarray(data.tokens["train"])
    assert np.count_nonzero(stream == data.tokenizer.token_to_id("<eos>")) == 3
    size = len("".join((books / "train.txt").read_text(encoding="utf-8").split("\n\n\n")).encode())
    assert int(data.token_bytes[torch.from_numpy(stream.astype(np.int64))].sum()) == size


def test_an_epoch_visits_every_window_once_and_epochs_differ(tool: ModuleType) -> None:
    windows = tool.Windows(np.arange(1000, dtype=np.uint16), 32, 7)
    epochs = [
        windows.batch(epoch * windows.per_epoch, windows.per_epoch)[:, 0] for epoch in range(2)
    ]
    for starts in epochs:
        assert (starts.sort().values.diff() == 32).all()
        assert starts.max() + 32 < 1000
    assert not torch.equal(*epochs)
    again = tool.Windows(np.arange(1000, dtype=np.uint16), 32, 7)
    assert torch.equal(
        again.batch(windows.per_epoch + 3, 2), windows.batch(windows.per_epoch + 3, 2)
    )
