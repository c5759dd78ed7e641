"""A whole study on a real small teacher: rows, resume, report; and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from boomerang.errors import DataError, OutputError
from boomerang.evaluate.results import Row, read_results
from boomerang.study import Study, pool, run_study
from boomerang.study.execute import preview
from boomerang.study.jobs import do
from boomerang.study.plan import Job
from boomerang.study.pool import Failure
from boomerang.study.records import Directory

STEPS = 3


def content(stories: Path, texts: Path) -> dict[str, Any]:
    return {
        "teacher": str(stories),
        "recipe": {
            "keep": [0, 2, 4],
            "data": {"files": [str(texts / "train.txt")], "sequence_length": 64},
            "training": {"max_steps": STEPS, "per_device_train_batch_size": 2, "use_cpu": True},
        },
        "measure": {"texts": [str(texts / "held.txt")], "window": 64, "stride": 64},
        "seeds": [0, 1],
        "variants": {
            "naive": {"init": "untrained"},
            "random": {"init": "random", "freeze": []},
            "ce": {"loss": {"kl": 0, "alignment": 0}},
        },
        "baselines": {
            "shortgpt": True,
            "calibration": [str(texts / "held.txt")],
            "distilled": [4],
            "pretrained": [str(stories)],
        },
        "figures": {"beside naive": ["naive"]},
    }


@pytest.fixture(scope="module")
def texts(stories_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("texts")
    text = stories_text.read_text()
    (directory / "train.txt").write_text(text[:6000])
    (directory / "held.txt").write_text(text[-700:])
    return directory


@pytest.fixture(scope="module")
def in_process(request: pytest.FixtureRequest) -> Any:
    """Runs without worker processes, each of which takes seconds to start."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    begun: list[str] = []

    def here(jobs: list[Job], directory: Directory, workers: int, **told: Any) -> list[Failure]:
        for job in jobs:
            begun.append(job.title)
            do(job, directory)
            told["ended"](job, 0.0, None)
        return []

    patch.setattr("boomerang.study.execute.run_jobs", here)
    return begun


@pytest.fixture(scope="module")
def finished(
    stories: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory, in_process: list[str]
) -> tuple[Path, list[Row]]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, run_study(Study.parse(content(stories, texts)), out)


def test_every_series_and_seed_is_measured_and_told_apart(
    finished: tuple[Path, list[Row]],
) -> None:
    out, rows = finished
    assert read_results(out) == rows
    found = {(r.series, r.seed, r.num_layers): r for r in rows if r.metric == "perplexity"}
    families = [("naive", None), *((n, s) for n in ("family", "random", "ce") for s in (0, 1))]
    expected = {(*each, n) for each in families for n in (3, 4, 5)}
    expected |= {("shortgpt", None, 3), ("shortgpt", None, 4), ("pretrained", None, 5)}
    assert set(found) == expected | {("distilled", 0, 4), ("distilled", 1, 4)}
    assert found["family", 0, 3].student != found["family", 1, 3].student
    assert found["family", 0, 3].value < found["naive", None, 3].value
    assert found["family", 0, 3].value < found["random", 0, 3].value
    assert found["family", 0, 5].value == pytest.approx(found["naive", None, 5].value)


def test_what_each_run_took_is_recorded(finished: tuple[Path, list[Row]]) -> None:
    lines = [json.loads(line) for line in (finished[0] / "jobs.jsonl").read_text().splitlines()]
    assert len(lines) == 8 + 11
    for line in lines:
        assert line["wall_seconds"] > 0 and line["resumed"] is False
        assert (line["tokens"] == STEPS * 2 * 64) == (line["kind"] == "distil")
    assert [line["series"] for line in lines if line["kind"] == "distil"] == [
        [name] for name in ("family", "random", "ce", "distilled") for _ in range(2)
    ]  # fmt: skip


def test_a_report_and_figures_are_drawn(finished: tuple[Path, list[Row]]) -> None:
    out, _ = finished
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in (
        "boomerang family",
        "naive pruning",
        "ShortGPT",
        "ce",
        "Which size for my budget?",
    ):
        assert name in page
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        "beside-naive-held-perplexity.png", "beside-naive-held-perplexity.svg",
    ]  # fmt: skip
    assert not list((out / "work").iterdir())


def test_only_what_has_changed_is_done_again(
    finished: tuple[Path, list[Row]], stories: Path, texts: Path, in_process: list[str]
) -> None:
    out, rows = finished
    in_process.clear()
    assert run_study(Study.parse(content(stories, texts)), out) == rows
    assert in_process == []
    # A name is no content.
    renamed = content(stories, texts)
    renamed["variants"]["only ce"] = renamed["variants"].pop("ce")
    found = {row.series for row in run_study(Study.parse(renamed), out)}
    assert found == {row.series for row in rows} - {"ce"} | {"only ce"}
    assert in_process == []
    changed = content(stories, texts)
    changed["variants"]["ce"]["loss"]["kl"] = 0.5
    changed["seeds"] = [0]
    fewer = run_study(Study.parse(changed), out)
    assert in_process == ["distil ce, seed 0", "measure ce, seed 0"]
    assert [row for row in fewer if row.series == "family"] == [
        row for row in rows if row.series == "family" and row.seed == 0
    ]


def test_a_distillation_goes_on_when_its_text_has_moved(
    finished: tuple[Path, list[Row]], stories: Path, texts: Path, tmp_path: Path
) -> None:
    out, rows = finished
    # Killed between the student's last file and the record of it.
    lines = map(json.loads, (out / "jobs.jsonl").read_text().splitlines())
    jobs = {line["title"]: line["job"] for line in lines}
    for title in ("distil family, seed 0", "measure family, seed 0"):
        Directory(out).record(jobs[title]).unlink()
    shutil.copy(texts / "train.txt", tmp_path / "moved.txt")
    moved = content(stories, texts)
    moved["recipe"]["data"] = moved["recipe"]["data"] | {"files": [str(tmp_path / "moved.txt")]}
    assert run_study(Study.parse(moved), out) == rows


def test_measured_rows_need_no_student_any_more(
    finished: tuple[Path, list[Row]], stories: Path, texts: Path, in_process: list[str]
) -> None:
    out, rows = finished
    in_process.clear()
    shutil.rmtree(out / "students")
    same = content(stories, texts)
    assert run_study(Study.parse(same), out) == rows
    assert in_process == []
    _, missing = preview(Study.parse(same | {"measure": same["measure"] | {"stride": 32}}), out)
    assert len(missing) == 8 + 11


def test_another_teacher_and_other_directories_are_refused(
    finished: tuple[Path, list[Row]], stories: Path, texts: Path, tmp_path: Path
) -> None:
    other = content(stories, texts) | {"teacher": "embedded"}
    other["recipe"] = other["recipe"] | {"keep": {"every": 2}}
    with pytest.raises(OutputError, match="study of another teacher"):
        run_study(Study.parse(other), finished[0])
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="holds no study"):
        run_study(Study.parse(content(stories, texts)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": ["empty.txt"]}, "there is no text in it"),
        ({"stride": 65}, "a window of 64 with a stride of 65"),
        pytest.param(
            {"tasks": "arc_easy", "limit": -1},
            "is no number of documents",
            marks=pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm_eval"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(
    changes: dict[str, Any],
    said: str,
    stories: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    study = content(stories, texts)
    study["measure"] |= changes
    with pytest.raises(DataError, match=said):
        run_study(Study.parse(study), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_study_goes_on(stories: Path, texts: Path, tmp_path: Path) -> None:
    import yaml

    small = content(stories, texts) | {"seeds": [0], "baselines": {}, "figures": {}}
    small["variants"] = {"naive": {"init": "untrained"}}
    # Long enough to be killed in its middle, and soon over.
    small["recipe"]["training"] |= {"max_steps": 24, "save_steps": 3}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(small))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "boomerang", "study", "study.yaml", "out"]
    killed = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: any(out.glob("students/*/checkpoints/checkpoint-*")))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not any((out / "records").glob("distil-*"))
    done = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    assert [path.name.partition("-")[0] for path in done] == ["untrained"]
    again = subprocess.run(
        [*command, "--jobs", "2"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "family" in again.stdout and "naive" in again.stdout
    assert "2 of 3 runs to do" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert {row.series for row in read_results(out)} == {"family", "naive"}
    lines = map(json.loads, (out / "jobs.jsonl").read_text().splitlines())
    assert {line["kind"]: line["resumed"] for line in lines}["distil"] is True


def test_a_run_that_fails_stops_no_other(
    stories: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path)
    fine = {
        "teacher": str(stories), "keep": [0, 4], "order": "last-to-first", "loading": {},
        "measure": {"texts": [str(texts / "held.txt")], "window": 64},
    }  # fmt: skip
    jobs = [
        Job("untrained-w", "untrained", "killed", fine),
        Job("distil-x", "distil", "broken", {"recipe": {"teacher": "nowhere"}, "init": "teacher"}),
        Job("family-x", "family", "after it", {}, needs="distil-x"),
        Job("untrained-y", "untrained", "fine", fine),
    ]
    workers: list[subprocess.Popen[str]] = []
    start = pool._start

    def remember(*arguments: Any) -> subprocess.Popen[str]:
        workers.append(start(*arguments))
        return workers[-1]

    monkeypatch.setattr(pool, "_start", remember)
    said: list[str] = []

    def started(job: Job, number: int) -> None:
        said.append(f"{number} {job.title}")
        if job.title == "killed":
            workers[0].kill()

    def ended(job: Job, seconds: float, error: str | None) -> None:
        said.append(f"{job.title}: {error}")

    failures = pool.run_jobs(jobs, directory, 1, started=started, ended=ended)
    assert [(each.job.title, each.mistake) for each in failures] == [
        ("killed", False), ("broken", True),
    ]  # fmt: skip
    assert said[:4] == [
        "1 killed", "killed: its process ended with code -9", "2 fine", "fine: None",
    ]  # fmt: skip
    assert said[4] == "3 broken" and len(said) == 6
    assert directory.done() == {"untrained-y"}
    assert [worker.wait(10) for worker in workers] == [-9, 0]


def test_a_plan_is_shown_without_doing_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "boomerang", "study", "claims", "--dry-run", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(line["tokens"] or 0 for line in lines) > 10_000_000
    assert not any(line["done"] for line in lines)
    assert not any(tmp_path.iterdir())
    wrong = subprocess.run([*command, "--set", "seeds=x"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1 and "seeds" in wrong.stderr


def _wait_for(happened: Any) -> None:
    end = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)
