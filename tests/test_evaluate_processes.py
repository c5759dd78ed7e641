"""An evaluation shared by two processes gives the rows of one.

Starting processes takes seconds: they measure everything there is to compare, once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from boomerang import LayerMap, init_student
from boomerang.evaluate import evaluate
from boomerang.evaluate.parallel import Ranks, own_device
from boomerang.evaluate.results import Row, read_results
from boomerang.evaluate.scorer import Scorer
from task_files import write_tasks

TASKS = "both,rolling,generating"


@pytest.fixture(scope="module")
def shared(
    stories: Path, stories_text: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A directory with everything, `out` measured by two processes, and what they printed."""
    directory = tmp_path_factory.mktemp("processes")
    init_student(stories, directory / "student", LayerMap((0, 2, 4), 5))
    write_tasks(directory / "tasks")
    (directory / "heldout.txt").write_text(stories_text.read_text()[:3000])
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--standalone", "-m", "boomerang", "evaluate", str(stories),
            str(directory / "student"), str(directory / "out"), "--device", "cpu", "--json",
            "--text", str(directory / "heldout.txt"), "--tasks", TASKS,
            "--include-path", str(directory / "tasks"), "--window", "64",
        ],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


def in_one(directory: Path, stories: Path, out: str) -> list[Row]:
    return evaluate(
        stories, directory / "student", directory / out, texts=[directory / "heldout.txt"],
        tasks=TASKS, include_path=directory / "tasks", window=64,
    )  # fmt: skip


def test_two_processes_give_the_rows_of_one(shared: tuple[Path, str], stories: Path) -> None:
    directory, printed = shared
    expected = in_one(directory, stories, "one")
    found = read_results(directory / "out")
    assert [json.loads(line) for line in printed.splitlines()] == [
        json.loads(row.model_dump_json()) for row in found
    ]
    assert len(found) == len(expected) > 40
    for row, other in zip(found, expected, strict=True):
        assert row.key == other.key
        assert row.items == other.items
        assert row.value == pytest.approx(other.value, rel=1e-5, abs=1e-9)
        assert (row.stderr or 0) == pytest.approx(other.stderr or 0, rel=1e-3, abs=1e-9)


def test_both_shared_the_work_and_one_goes_on_from_there(
    shared: tuple[Path, str], stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = shared
    sizes = [
        (directory / "out" / name).stat().st_size for name in ("scores.jsonl", "scores.1.jsonl")
    ]
    assert min(sizes) > 0.3 * max(sizes)
    monkeypatch.setattr(Scorer, "run", None)
    assert in_one(directory, stories, "out") == read_results(directory / "out")


def test_documents_stay_together() -> None:
    documents = [0, 0, 0, 1, 1, 2, 3, 3]
    shares = [Ranks(rank, 2).share(range(8), documents) for rank in range(2)]
    assert shares == [(0, 1, 2, 5), (3, 4, 6, 7)]


def test_each_process_has_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == "cuda:1"
    assert own_device("cuda:3") == "cuda:3"
    assert own_device("cpu") == "cpu"
    assert own_device(None) is None
