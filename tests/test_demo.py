"""The demo: the whole path on a real small teacher, and a second run that repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from boomerang.demo.walkthrough import Outcome, run_demo
from boomerang.errors import OutputError

TINY = {"steps": 4, "batch_size": 4, "sequence_length": 64, "heldout_characters": 1500}


@pytest.fixture(scope="module")
def finished(
    stories: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome, list[str]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    said: list[str] = []
    outcome = run_demo(out, teacher=str(stories), controls=True, say=said.append, **TINY)
    return out, outcome, said


def test_every_size_of_every_series_is_measured(
    finished: tuple[Path, Outcome, list[str]],
) -> None:
    _, outcome, said = finished
    found = {
        (row.series, row.num_layers): row for row in outcome.rows if row.metric == "perplexity"
    }
    # Five layers, kept 0, 2, 3, 4: the student and the teacher.
    assert set(found) == {(s, n) for s in ("family", "naive", "random") for n in (4, 5)}
    assert found["family", 5].value == pytest.approx(found["naive", 5].value)
    assert found["family", 4].value < found["naive", 4].value
    assert found["family", 4].value < found["random", 4].value
    assert len(said) == 7


def test_everything_it_names_is_there(finished: tuple[Path, Outcome, list[str]]) -> None:
    out, outcome, _ = finished
    assert [path.read_bytes()[:5] for path in outcome.figure] == [b"\x89PNG\r", b"<?xml"]
    assert "Which size for my budget?" in outcome.report.read_text(encoding="utf-8")
    assert len(outcome.speech) > len("It was a dark evening, and the old man")
    model = AutoModelForCausalLM.from_pretrained(outcome.member)
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    for name in ("student-cut", "student", "random", "results", "text"):
        assert (out / name).is_dir()


def test_a_second_run_repeats_nothing(
    finished: tuple[Path, Outcome, list[str]], stories: Path
) -> None:
    out, outcome, _ = finished
    kept = {
        path: path.stat().st_mtime_ns
        for name in ("student-cut/config.json", "student/model.safetensors")
        for path in [out / name]
    }
    again = run_demo(out, teacher=str(stories), controls=True, **TINY)
    assert again.rows == outcome.rows
    assert again.speech == outcome.speech
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_directory_of_another_run_is_refused(
    finished: tuple[Path, Outcome, list[str]], stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match="another steps"):
        run_demo(finished[0], teacher=str(stories), **(TINY | {"steps": 5}))
    with pytest.raises(OutputError, match="another kept"):
        run_demo(finished[0], teacher=str(stories), keep=[0, 2, 4], **TINY)
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="no demo run"):
        run_demo(tmp_path, teacher=str(stories), **TINY)
