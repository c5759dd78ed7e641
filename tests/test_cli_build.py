"""`boomerang build` and `boomerang sizes` as a user meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from boomerang.cli import app
from boomerang.errors import BoomerangError, CheckpointError, OutputError
from disk import save_models, save_pair
from tiny_models import tiny_pair


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
    with pytest.raises(BoomerangError, match="--all"):
        call("build", *pair, tmp_path / "out", "--all", "--patch", 1)


def test_all_goes_on_where_it_stopped(pair: tuple[str, str], tmp_path: Path) -> None:
    call("build", *pair, tmp_path, "--all")
    inodes = {path: path.stat().st_ino for path in tmp_path.glob("*/model.safetensors")}
    shutil.rmtree(tmp_path / "teacher-5L")
    said = call("build", *pair, tmp_path, "--all").stdout.splitlines()
    assert [line.endswith("already there") for line in said] == [True, False, True, True]
    assert (tmp_path / "teacher-5L" / "model.safetensors").exists()
    kept = [path for path in inodes if path.parent.name != "teacher-5L"]
    assert len(kept) == 3 and all(path.stat().st_ino == inodes[path] for path in kept)
    call("build", *pair, tmp_path, "--all", "--overwrite")
    assert not any(path.stat().st_ino == inodes[path] for path in kept)


def test_all_goes_on_with_the_same_plan_alone(pair: tuple[str, str], tmp_path: Path) -> None:
    call("build", *pair, tmp_path, "--all")
    shutil.rmtree(tmp_path / "teacher-4L")
    record = tmp_path / "teacher-6L" / "boomerang.json"
    text = record.read_text()
    others = (
        ["--dtype", "float16"],
        ["--max-shard-size", "10KB"],
        ["--order", "first-to-last"],
    )
    for arguments, content in (*((other, text) for other in others), ([], "{}"), ([], "{")):
        record.write_text(content)
        with pytest.raises(OutputError, match="not empty"):
            call("build", *pair, tmp_path, "--all", *arguments)
        assert not (tmp_path / "teacher-4L").exists(), "nothing is begun that cannot be finished"


def test_all_is_pushed_member_by_member(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[tuple[str, str]] = []
    monkeypatch.setattr("boomerang.checkpoint.hub.push", lambda d, r: pushed.append((d.name, r)))
    call("build", *pair, tmp_path, "--all", "--push-to-hub", "me/family")
    assert pushed == [(f"teacher-{n}L", f"me/family-{n}L") for n in range(4, 8)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--patch", 1, "--push-to-hub", "not a repo"],
        ["--all", "--push-to-hub", "a/b/c"],
        ["--all", "--push-to-hub", f"me/{'a' * 95}"],  # what each member adds is too much
    ],
)
def test_a_repository_that_cannot_be_is_found_out_first(
    arguments: list[object], pair: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="is not a valid repository name"):
        call("build", *pair, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_directories_have_no_revisions(pair: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no revision 'main'"):
        call("build", f"{pair[0]}@main", pair[1], tmp_path / "out", "--patch", 1)
    # One whose own name has an @ is no such case.
    named = tmp_path / "teacher@main"
    named.symlink_to(pair[0])
    call("build", named, pair[1], tmp_path / "out", "--patch", 1)


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


class Hub:
    """A stub of the hub's client: models in a directory, and a cache for what is asked for."""

    def __init__(self, models: Path, cache: Path) -> None:
        self.models, self.cache = models, cache

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str],
    ) -> str:
        snapshot = self.cache / name.replace("/", "--") / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in (self.models / Path(name).name).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in ignore_patterns):
                continue
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, snapshot)
        return str(snapshot)

    def files(self) -> set[str]:
        return {path.name for path in self.cache.rglob("*.*")}


@pytest.fixture
def hub(pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    client = Hub(Path(pair[0]).parent, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", client.snapshot_download)
    return client


def test_sizes_of_models_on_the_hub_download_no_weights(pair: tuple[str, str], hub: Hub) -> None:
    expected = call("sizes", *pair, "--json").stdout
    assert call("sizes", "me/teacher", "me/student", "--json").stdout == expected
    assert call("sizes", "me/teacher", "--keep", "0,1,3,5", "--json").stdout == expected
    assert call("sizes", pair[0], "me/student", "--json").stdout == expected
    assert hub.files() == {"config.json", "student_config.json"}


def test_sizes_use_weights_that_are_in_the_cache(tmp_path: Path, hub: Hub) -> None:
    """Whole ones; a part of a download is as good as none."""
    # A tied student with the teacher's own embedding: no config tells that members are tied, too.
    teacher, student, layers = tiny_pair("llama", tied=True)
    student.model.embed_tokens.load_state_dict(teacher.model.embed_tokens.state_dict())
    hub.models = tmp_path / "models"
    local = save_models(hub.models, teacher, student, layers, max_shard_size="20KB")
    names = ("me/teacher", "me/student")
    exact = call("sizes", *local, "--json").stdout
    counted = call("sizes", *names, "--json").stdout
    assert counted != exact
    assert [row["bytes"] for row in json.loads(counted)][::3] == [
        row["bytes"] for row in json.loads(exact)
    ][::3], "student and teacher themselves are counted right"
    for name in names:
        hub.snapshot_download(
            name, revision=None, allow_patterns=["*.json", "*-00001-of-*"], ignore_patterns=[]
        )
    assert call("sizes", *names, "--json").stdout == counted
    for name in names:
        hub.snapshot_download(name, revision=None, allow_patterns=["*"], ignore_patterns=[])
    assert call("sizes", *names, "--json").stdout == exact


def test_sizes_of_a_quantised_model_are_not_guessed(configs: Path, tmp_path: Path) -> None:
    config = json.loads((configs / "Qwen3-4B-Base.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "fp8"}})
    )
    with pytest.raises(BoomerangError, match="quantised"):
        call("sizes", tmp_path, "--json")
