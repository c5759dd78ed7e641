"""A tokenizer that makes token ids for which the model has no embedding row is refused at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from boomerang.cli import main
from disk import save_pair

TASKS = Path(__file__).parents[1] / "examples" / "tasks"


@pytest.fixture
def pair(tmp_path: Path, stories: Path) -> tuple[Path, Path]:
    """A teacher of 97 tokens and its student, beside a tokenizer of 512."""
    paths = save_pair(tmp_path, "llama")
    for path in stories.glob("tokenizer*"):
        for directory in paths:
            shutil.copy(path, directory)
    return paths


@pytest.mark.parametrize("command", ["generate", "evaluate", "tasks", "inspect", "shortgpt"])
def test_tokens_beyond_the_embedding_are_one_line(
    pair: tuple[Path, Path],
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text("Once upon a time there was a cat.")
    arguments = {
        "generate": ["generate", *pair, "Once upon a time"],
        "evaluate": ["evaluate", *pair, out, "--text", text],
        "tasks": ["evaluate", *pair, out, "--tasks", "example_generation", "--include-path", TASKS,
                  "--gen-kwargs", "max_gen_toks=8"],
        "inspect": ["inspect", *pair, "--text", text],
        "shortgpt": ["baseline", "shortgpt", *pair, out, "--calibration", text, "--text", text,
                     "--layers", 5],
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", ["boomerang", *map(str, arguments[command])])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert [line for line in said if "the model's embedding has only 97 rows" in line] == said[-1:]
