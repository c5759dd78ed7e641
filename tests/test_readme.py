"""The README's commands, run as they stand there, on a small pair in the place of the hub's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from boomerang.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = re.findall(r"^boomerang (.+)$", README, flags=re.MULTILINE)
RECIPE = re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `boomerang (\w+)", README, flags=re.MULTILINE))
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert listed == commands | {group.name for group in app.registered_groups}


def test_the_readme_runs_word_for_word(stories: Path, stories_text: Path, tmp_path: Path) -> None:
    teacher, student = "Qwen/Qwen3-4B-Base", "Harvard-DCML/boomerang-qwen3-2.3B"
    # A hub id is a relative path too, and a directory of that name comes first.
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Harvard-DCML").mkdir()
    (tmp_path / teacher).symlink_to(stories)
    (tmp_path / "text.txt").write_text(stories_text.read_text()[:40_000])
    (tmp_path / "heldout.txt").write_text(stories_text.read_text()[-2_000:])
    assert RECIPE is not None
    (tmp_path / "recipe.yaml").write_text(RECIPE[1])
    small = ["--set", "training.max_steps=1", "--set", "data.sequence_length=64"]
    run(tmp_path, ["init", teacher, student, "--keep", "0,2,4"])
    done = {}
    for command in COMMANDS:
        words = shlex.split(command)
        # The published pair has 17 blocks to put back, this one two.
        words = [word if word != "8" else "1" for word in words]
        done[words[0]] = run(tmp_path, words + (small if words[0] == "distill" else []))
    assert "The sea was" in done["generate"]
    assert (tmp_path / "qwen3-3.2b" / "config.json").exists()
    assert (
        json.loads((tmp_path / "distilled" / "config.json").read_text())["num_hidden_layers"] == 4
    )
    assert (tmp_path / "results" / "results.jsonl").exists()


def run(directory: Path, words: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "boomerang", *words],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"boomerang {' '.join(words)}: {done.stderr}")
    return done.stdout


def test_every_link_to_a_file_leads_somewhere() -> None:
    root = Path(__file__).parents[1]
    pages = [*root.glob("*.md"), *root.glob("docs/*.md")]
    assert len(pages) > 5
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_walks_name_files_that_exist() -> None:
    root = Path(__file__).parents[1]
    walks = (root / "CONTRIBUTING.md").read_text().partition("## Three walks")[2]
    names = set(re.findall(r"`([a-z_]+/)?([a-z_]+\.py)`", walks.partition("## Tests")[0]))
    assert len(names) > 20
    files = {(f"{path.parent.name}/", path.name) for path in (root / "src/boomerang").rglob("*.py")}
    known = files | {("", name) for _, name in files}
    assert not names - known
