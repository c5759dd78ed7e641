"""A whole study on a real small teacher: rows, resume, report; and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from boomerang.errors import DataError, OutputError, StudyError
from boomerang.evaluate.results import Row, read_results
from boomerang.study import Study, run_study, submit
from boomerang.study.execute import preview
from boomerang.study.plan import Job
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


def here(study: dict[str, Any], out: Path) -> tuple[list[Row], list[str]]:
    """The rows of a study and the runs that were done for it, in this process: quickly."""
    said: list[str] = []
    rows = run_study(Study.parse(study), out, executor="debug", say=said.append)
    return rows, [line.partition("] ")[2] for line in said if line.startswith("[")]


@pytest.fixture(scope="module")
def finished(
    stories: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Row]]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, here(content(stories, texts), out)[0]


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
    finished: tuple[Path, list[Row]], stories: Path, texts: Path
) -> None:
    out, rows = finished
    assert here(content(stories, texts), out) == (rows, [])
    # A name is no content.
    renamed = content(stories, texts)
    renamed["variants"]["only ce"] = renamed["variants"].pop("ce")
    found, runs = here(renamed, out)
    assert {row.series for row in found} == {row.series for row in rows} - {"ce"} | {"only ce"}
    assert runs == []
    changed = content(stories, texts)
    changed["variants"]["ce"]["loss"]["kl"] = 0.5
    changed["seeds"] = [0]
    fewer, runs = here(changed, out)
    assert runs == ["distil ce, seed 0", "measure ce, seed 0"]
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
    assert here(moved, out) == (rows, ["distil family, seed 0", "measure family, seed 0"])


def test_measured_rows_need_no_student_any_more(
    finished: tuple[Path, list[Row]], stories: Path, texts: Path
) -> None:
    out, rows = finished
    shutil.rmtree(out / "students")
    same = content(stories, texts)
    assert here(same, out) == (rows, [])
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
            {"tasks": "arc_easy", "include_path": "nowhere"},
            "nowhere: is not a directory",
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


@contextmanager
def started(
    stories: Path, texts: Path, directory: Path, **training: int
) -> Iterator[tuple[list[str], subprocess.Popen[str]]]:
    """A study in a group of processes of its own, which Ctrl-C reaches in a terminal."""
    small = content(stories, texts) | {"seeds": [0], "baselines": {}, "figures": {}}
    small["variants"] = {"naive": {"init": "untrained"}}
    small["recipe"]["training"] |= training
    (directory / "study.yaml").write_text(yaml.safe_dump(small))
    command = [sys.executable, "-m", "boomerang", "study", "study.yaml", "out"]
    study = subprocess.Popen(
        command, cwd=directory, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield command, study
    finally:
        # Its runs end with it.
        study.kill()


def test_an_interrupted_study_stops_its_runs_and_distillations_save_a_checkpoint(
    stories: Path, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    never = {"max_steps": 10**6, "save_steps": 10**6, "logging_steps": 1}
    with started(stories, texts, tmp_path, **never) as (_, study):
        _wait_for(lambda: any(out.glob("students/*/log.jsonl")))
        os.killpg(study.pid, signal.SIGINT)
        _, said = study.communicate()
    assert study.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said
    # Their standard error is the study's, so all of its processes have ended.
    assert any(out.glob("students/*/checkpoints/checkpoint-*"))
    assert not any((out / "records").glob("distil-*"))


def test_a_killed_study_goes_on(stories: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Long enough to be killed in its middle, and soon over.
    with started(stories, texts, tmp_path, max_steps=200, save_steps=10) as (command, study):
        _wait_for(lambda: any(out.glob("students/*/checkpoints/checkpoint-*")))
        study.kill()
        # Until its runs have ended, too: they have its standard error.
        study.communicate()
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


def jobs_and_a_fine_one(stories: Path, texts: Path) -> list[Job]:
    fine = {
        "teacher": str(stories), "keep": [0, 4], "order": "last-to-first", "loading": {},
        "measure": {"texts": [str(texts / "held.txt")], "window": 64},
    }  # fmt: skip
    return [
        Job("untrained-w", "untrained", "killed", fine),
        Job("distil-x", "distil", "broken", {"recipe": {"teacher": "nowhere"}, "init": "teacher"}),
        Job("family-x", "family", "after it", {}, needs="distil-x"),
        Job("untrained-y", "untrained", "fine", fine),
    ]


def test_a_run_that_fails_stops_no_other(
    stories: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path)
    submit_one = submit._submit

    def and_kill(run: submit.Run, *arguments: Any) -> Any:
        handle = submit_one(run, *arguments)
        if run.job.title == "killed":
            os.kill(int(handle.job_id), signal.SIGKILL)
        return handle

    monkeypatch.setattr(submit, "_submit", and_kill)
    said: list[str] = []
    failures = submit.run_jobs(
        jobs_and_a_fine_one(stories, texts), directory, 1,
        started=lambda job, number: said.append(f"{number} {job.title}"),
        ended=lambda job, seconds, error: said.append(f"{job.title}: {error}"),
    )  # fmt: skip
    assert [(each.job.title, each.mistake) for each in failures] == [
        ("killed", False), ("broken", True),
    ]  # fmt: skip
    assert said[0] == "1 killed" and "its process was killed" in said[1]
    assert said[2:4] == ["2 fine", "fine: None"]
    assert said[4] == "3 broken" and len(said) == 6
    assert directory.done() == {"untrained-y"}


def test_an_error_of_the_study_itself_ends_it_and_its_runs(
    stories: Path, texts: Path, tmp_path: Path
) -> None:
    directory = Directory(tmp_path)

    def ended(job: Job, seconds: float, error: str | None) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        submit.run_jobs(
            jobs_and_a_fine_one(stories, texts)[1:], directory, 2,
            started=lambda job, number: None, ended=ended,
        )  # fmt: skip
    assert directory.done() <= {"untrained-y"}


def test_runs_are_jobs_of_a_slurm_cluster(
    stories: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for slurm's programs, which run a job here."""
    programs = {
        "sbatch": "SLURM_JOB_ID=7 SLURM_NTASKS=1 bash $1 >/dev/null 2>&1 &\n"
        'echo "Submitted batch job 7"',
        "srun": "while [[ $1 == -* ]]; do case $1 in -*=*|--unbuffered) shift;; "
        '*) shift 2;; esac; done; "$@"',
        "sacct": 'printf "JobID|State|NodeList\\n7|RUNNING|here\\n"',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    with pytest.raises(StudyError, match="no srun"):
        submit.check_executor("slurm")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    submit.check_executor("slurm")
    directory = Directory(tmp_path / "out")
    failures = submit.run_jobs(
        jobs_and_a_fine_one(stories, texts)[3:], directory, 1, executor="slurm",
        started=lambda job, number: None, ended=lambda job, seconds, error: None,
    )  # fmt: skip
    assert failures == []
    assert directory.done() == {"untrained-y"}


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
    end = time.monotonic() + 180
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)
