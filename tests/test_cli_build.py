"""`boomerang build` and `boomerang sizes` as a user meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from boomerang.cli import app
from boomerang.errors import BoomerangError, OutputError
from disk import save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    teacher, student = save_pair(tmp_path_factory.mktemp("pair"), "qwen3")
    return str(teacher), str(student)


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def test_build_says_what_it_chose(pair: tuple[str, str], tmp_path: Path) -> None:
    result = call("build", *pair, tmp_path / "out", "--layers", 6)
    assert "patch 2 of 3, 6 of 7 layers" in result.stderr
    assert result.stdout == f"{tmp_path / 'out'}: 6 layers, patch 2\n"
    record = json.loads((tmp_path / "out" / "boomerang.json").read_text())
    assert record["patch"] == 2 and record["order"] == "last-to-first"


@pytest.mark.parametrize(
    ("choice", "patched"),
    [
        (["--patch", "1"], [3]),
        (["--patch", "1", "--order", "first-to-last"], [0, 1]),
        (["--blocks", "0,2-3"], [0, 2, 3]),
        (["--params", "1B"], [0, 1, 2, 3]),
        (["--memory", "1GB", "--context", "10", "--batch", "2"], [0, 1, 2, 3]),
    ],
)
def test_every_way_to_choose(
    choice: list[str], patched: list[int], pair: tuple[str, str], tmp_path: Path
) -> None:
    call("build", *pair, tmp_path / "out", *choice)
    record = json.loads((tmp_path / "out" / "boomerang.json").read_text())
    assert record["patched_layers"] == patched


def test_options_reach_the_files(pair: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("build", *pair, out, "--patch", 1, "--dtype", "bfloat16", "--max-shard-size", "10KB")
    assert (out / "model.safetensors.index.json").exists()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(OutputError, match="not empty"):
        call("build", *pair, out, "--patch", 2)
    call("build", *pair, out, "--patch", 2, "--overwrite")
    assert (out / "model.safetensors").exists()


def test_all_builds_the_family(pair: tuple[str, str], tmp_path: Path) -> None:
    call("build", *pair, tmp_path, "--all")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"teacher-{n}L" for n in range(4, 8)
    ]
    for n in range(4, 8):
        config = json.loads((tmp_path / f"teacher-{n}L" / "config.json").read_text())
        assert config["num_hidden_layers"] == n
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    shutil.rmtree(tmp_path / "teacher-4L")
    with pytest.raises(OutputError, match="not empty"):
        call("build", *pair, tmp_path, "--all")
    assert not (tmp_path / "teacher-4L").exists(), "nothing is begun that cannot be finished"
    assert all(path.stat().st_mtime_ns == before[path] for path in tmp_path.iterdir())
    with pytest.raises(BoomerangError, match="--all"):
        call("build", *pair, tmp_path / "out", "--all", "--patch", 1)


def test_all_is_pushed_member_by_member(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[tuple[str, str]] = []
    monkeypatch.setattr("boomerang.hub.push", lambda d, r: pushed.append((d.name, r)))
    call("build", *pair, tmp_path, "--all", "--push-to-hub", "me/family")
    assert pushed == [(f"teacher-{n}L", f"me/family-{n}L") for n in range(4, 8)]


def test_mistakes_are_one_line_and_exit_code_2(pair: tuple[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "boomerang", "build", *pair, str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--memory", "1KB"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "smallest member" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_sizes_as_json(pair: tuple[str, str]) -> None:
    rows = json.loads(call("sizes", *pair, "--json", "--memory", "200KB", "--context", 10).stdout)
    assert [row["patch"] for row in rows] == [0, 1, 2, 3]
    assert [row["num_layers"] for row in rows] == [4, 5, 6, 7]
    assert rows[1]["patched"] == [3]
    assert [row["fits"] for row in rows] == [row["memory"] <= 200_000 for row in rows]
    assert {row["fits"] for row in rows} == {True, False}
    half = json.loads(call("sizes", *pair, "--json", "--dtype", "float16").stdout)
    assert [2 * row["bytes"] for row in half] == [row["bytes"] for row in rows]
    assert [row["fits"] for row in half] == [None] * 4


def test_sizes_as_a_table(pair: tuple[str, str]) -> None:
    text = call("sizes", *pair, "--memory", "1GiB").stdout
    lines = text.splitlines()
    for heading in (
        "patch",
        "layers",
        "parameters",
        "weights",
        "KV / token",
        "memory",
        "fits 1.00 GiB",
    ):
        assert heading in text
    assert sum(line.rstrip().endswith("yes") for line in lines) == 4
    assert "10%" in text


def test_sizes_without_weights_or_student(
    configs: Path, pair: tuple[str, str], tmp_path: Path
) -> None:
    config = configs / "Qwen3-4B-Base.json"
    shutil.copy(config, tmp_path / "config.json")
    by_file = call("sizes", config, "--json").stdout
    assert call("sizes", tmp_path, "--json").stdout == by_file
    rows = json.loads(by_file)
    assert rows[0]["num_layers"] == 19 and rows[-1]["parameters"] == 4_022_468_096
    kept = call("sizes", config, "--keep", "0,2-34,35", "--json").stdout
    assert json.loads(kept)[0]["num_layers"] == 35
    # A teacher's own weights are enough, and its student may be a plan alone.
    with_student = json.loads(call("sizes", *pair, "--json").stdout)
    assert json.loads(call("sizes", pair[0], "--keep", "0,1,3,5", "--json").stdout) == with_student
    plan = tmp_path / "plan"
    plan.mkdir()
    shutil.copy(Path(pair[1]) / "student_config.json", plan)
    assert json.loads(call("sizes", pair[0], plan, "--json").stdout) == with_student
    with pytest.raises(BoomerangError, match="--keep"):
        call("sizes", *pair, "--keep", "0")
