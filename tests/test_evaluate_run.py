"""An evaluation into a directory: rows, resuming, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from boomerang import Family, LayerMap, init_student
from boomerang.errors import CheckpointError, OutputError, ResultsError
from boomerang.evaluate import evaluate
from boomerang.evaluate.provenance import read_provenance
from boomerang.evaluate.results import Row, current, read_results
from boomerang.evaluate.scorer import Scorer
from boomerang.evaluate.statistics import paired_difference
from boomerang.hashing import content_hash
from boomerang.report.sources import read_sets
from boomerang.text.documents import read_documents
from boomerang.text.windows import prepare
from plain_scores import plain_scores

LAYERS = LayerMap((0, 2, 4), 5)
# The members along the order, by their layers: what is patched.
BY_DEPTH: dict[int, tuple[int, ...]] = {3: (), 4: (0,), 5: (0, 1, 2)}
SETTINGS: dict[str, Any] = {"window": 64, "order": "first-to-last"}


@pytest.fixture
def text(tmp_path: Path, stories_text: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(read_documents([stories_text])[:2]))
    return path


@pytest.fixture
def student(tmp_path: Path, stories: Path) -> Path:
    """The cut of the teacher, one weight changed so that it is no naive student."""
    init_student(stories, tmp_path / "student", LAYERS)
    _change_weight(tmp_path / "student", 1.01)
    return tmp_path / "student"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A list that grows with every batch: the member's patched layers, for each of its windows."""
    scored: list[tuple[int, ...]] = []

    whole = Scorer.run

    def counting(scorer: Scorer, requests: Any) -> Any:
        for batch in whole(scorer, requests):
            members = [BY_DEPTH[model.config.num_hidden_layers] for model in scorer.models]
            scored.extend(member for member in members for _ in batch.requests)
            yield batch

    monkeypatch.setattr(Scorer, "run", counting)
    return scored


def _change_weight(directory: Path, factor: float) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * factor
    save_file(tensors, path, metadata={"format": "pt"})


def _values(rows: list[Row], metric: str) -> list[float]:
    return [row.value for row in rows if row.metric == metric]


def test_rows_hold_what_the_live_family_scores(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    rows = evaluate(stories, student, tmp_path / "out", texts=[text], **SETTINGS)
    assert read_results(tmp_path / "out") == rows
    family = Family.from_pretrained(stories, student)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    held_out = prepare(read_documents([text]), tokenizer, window=64)
    members = family.layers.members(SETTINGS["order"])
    scored = [plain_scores(family.model(member), held_out) for member in members]

    def approx(values: list[Any]) -> Any:
        return pytest.approx(values, rel=1e-4)

    perplexities = [row for row in rows if row.metric == "perplexity"]
    assert [row.value for row in perplexities] == approx([s.perplexity.value for s in scored])
    assert [row.stderr for row in perplexities] == approx([s.perplexity.stderr for s in scored])
    bits = [s.bits_per_byte.value for s in scored]
    assert _values(rows, "bits_per_byte") == approx(bits)
    differences = [row for row in rows if row.metric == "perplexity_difference"]
    for row, (a, b) in zip(differences, pairwise(scored), strict=True):
        expected = paired_difference(b.perplexity, a.perplexity)
        assert (row.value, row.stderr) == pytest.approx(expected, rel=1e-3)
    middle = perplexities[1]
    assert middle == Row(
        member=(0,),
        patch=1,
        order="first-to-last",
        num_layers=4,
        parameters=214592,
        bytes=4 * 214592,
        task="stories",
        metric="perplexity",
        value=middle.value,
        stderr=middle.stderr,
        items=len(scored[0].nll),
        teacher=content_hash(stories),
        student=content_hash(student),
        series="family",
    )


def test_finished_members_are_not_measured_again(
    tmp_path: Path, stories: Path, student: Path, text: Path, passes: list[tuple[int, ...]]
) -> None:
    out = tmp_path / "out"
    first = evaluate(stories, student, out, texts=[text], members=[0, 2], **SETTINGS)
    assert set(passes) == {(), (0, 1, 2)}
    passes.clear()
    everything = evaluate(stories, student, out, texts=[text], batch_size=3, **SETTINGS)
    assert set(passes) == {(0,)}
    passes.clear()
    written = (out / "results.jsonl").read_bytes()
    assert evaluate(stories, student, out, texts=[text], **SETTINGS) == everything
    assert not passes
    assert (out / "results.jsonl").read_bytes() == written
    # The whole curve and its last neighbours are there, whatever was measured first.
    assert _values(everything, "perplexity")[::2] == _values(first, "perplexity")
    assert len(_values(everything, "perplexity_difference")) == 2


def test_a_killed_run_is_taken_up_where_it_stopped(
    tmp_path: Path, stories: Path, student: Path, text: Path, passes: list[tuple[int, ...]]
) -> None:
    settings = {"texts": [text], "batch_size": 2, **SETTINGS}
    whole = evaluate(stories, student, tmp_path / "whole", **settings)
    windows = len(passes) // 3
    out = tmp_path / "out"
    evaluate(stories, student, out, **settings)
    passes.clear()
    # Killed while the second member's scores were written: only the first one's are there.
    scores = (out / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (out / "scores.jsonl").write_bytes(scores[0] + scores[1][:-50])
    results = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(results[0] + results[1][:20])
    assert evaluate(stories, student, out, **settings) == whole
    assert sorted(passes) == [(0,)] * windows + [(0, 1, 2)] * windows
    assert read_results(out) == whole


def test_an_interrupted_run_keeps_the_windows_that_are_done(
    tmp_path: Path,
    stories: Path,
    student: Path,
    text: Path,
    passes: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"texts": [text], "batch_size": 2, **SETTINGS}
    whole = evaluate(stories, student, tmp_path / "whole", **settings)
    windows = len(passes) // 3
    passes.clear()
    counting = Scorer.run

    def interrupted(scorer: Scorer, requests: Any) -> Any:
        yield from itertools.islice(counting(scorer, requests), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stories, student, tmp_path / "out", members=[0, 2], **settings)
    monkeypatch.setattr(Scorer, "run", counting)
    assert len(passes) == 2 * 6
    # A member that was not asked for before joins the others where they stopped.
    rows = evaluate(stories, student, tmp_path / "out", **settings)
    assert len(passes) == 3 * windows
    for row, expected in zip(rows, whole, strict=True):
        assert row.model_copy(update={"value": 0.0, "stderr": None}) == expected.model_copy(
            update={"value": 0.0, "stderr": None}
        )
        assert row.value == pytest.approx(expected.value, rel=1e-5)


def test_a_changed_student_is_measured_again(
    tmp_path: Path, stories: Path, student: Path, text: Path, passes: list[tuple[int, ...]]
) -> None:
    out = tmp_path / "out"
    old = evaluate(stories, student, out, texts=[text], **SETTINGS)
    first = list(passes)
    _change_weight(student, 1.2)
    new = evaluate(stories, student, out, texts=[text], **SETTINGS)
    assert passes == first * 2
    assert _values(new, "perplexity")[0] != _values(old, "perplexity")[0]
    assert {row.student for row in new} == {content_hash(student)}
    assert read_results(out) == old + new


def test_a_student_that_comes_back_is_the_current_one(
    tmp_path: Path, stories: Path, student: Path, text: Path, passes: list[tuple[int, ...]]
) -> None:
    out = tmp_path / "out"
    first = evaluate(stories, student, out, texts=[text], **SETTINGS)
    weights = (student / "model.safetensors").read_bytes()
    _change_weight(student, 1.2)
    evaluate(stories, student, out, texts=[text], **SETTINGS)
    (student / "model.safetensors").write_bytes(weights)
    passes.clear()
    # One member is asked for, and the rows of all are current.
    evaluate(stories, student, out, texts=[text], members=[0], **SETTINGS)
    assert not passes
    assert {row.key: row for row in current(read_results(out))} == {row.key: row for row in first}
    assert list(read_sets([out])[0].rows) == current(read_results(out))
    recorded = read_provenance(out)
    assert recorded is not None and recorded.student.hash == first[0].student
    assert {each.member for each in recorded.built} == set(BY_DEPTH.values())


def test_logits_that_overflow_are_named_by_member(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    # Its weights are finite, and its logits are not.
    _change_weight(student, 7e37)
    with pytest.raises(ResultsError, match=r"^member \[\]: .* not finite"):
        evaluate(stories, student, tmp_path / "out", texts=[text], **SETTINGS)


def test_another_evaluation_is_refused(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    out = tmp_path / "out"
    evaluate(stories, student, out, texts=[text], members=[0], **SETTINGS)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputError, match="window of stories is 64 there and 32 here"):
        evaluate(stories, student, out, texts=[text], window=32)
    text.write_text("Another story.")
    with pytest.raises(OutputError, match="text of stories is"):
        evaluate(stories, student, out, texts=[text], **SETTINGS)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_outputs_that_cannot_be_continued(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        evaluate(stories, student, tmp_path / "file", texts=[text])
    out = tmp_path / "out"
    evaluate(stories, student, out, texts=[text], members=[0], **SETTINGS)
    (out / "scores.jsonl").write_text('{"student": "x"}\n')
    with pytest.raises(ResultsError, match=r'scores\.jsonl line 1: field "member"'):
        evaluate(stories, student, out, texts=[text], **SETTINGS)
    score = {"student": "x", "member": [], "task": "y", "items": [0], "answers": []}
    (out / "scores.jsonl").write_text(json.dumps(score) + "\n")
    with pytest.raises(ResultsError, match=r'scores\.jsonl line 1: field "answers"'):
        evaluate(stories, student, out, texts=[text], **SETTINGS)
    for broken in ("5", '{"a": 5}'):
        (out / "evaluation.json").write_text(f'{{"tasks": {broken}}}')
        with pytest.raises(ResultsError, match=r'evaluation\.json: field "tasks" is broken'):
            evaluate(stories, student, out, texts=[text], **SETTINGS)
    (out / "evaluation.json").unlink()
    with pytest.raises(OutputError, match=r"has results but no evaluation\.json"):
        evaluate(stories, student, out, texts=[text], **SETTINGS)


def test_results_of_another_version_are_named_so(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "evaluation.json").write_text('{"schema_version": 2, "tasks": {}}')
    message = r"another version of boomerang \(schema version 2, this one writes 3\).*name another"
    with pytest.raises(OutputError, match=message):
        evaluate(stories, student, out, texts=[text], **SETTINGS)


def test_several_texts_are_one_task(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Tom had a blue car. He liked to play with his friend Sam.")
    rows = evaluate(stories, student, tmp_path / "out", texts=[text, other], members=[2])
    assert {row.task for row in rows} == {"text"}
    assert {row.order for row in rows} == {"first-to-last"}


def test_the_content_hash_tells_every_change(tmp_path: Path, stories: Path) -> None:
    base = content_hash(stories)
    assert len(base) == 16
    copy = tmp_path / "copy"
    shutil.copytree(stories, copy)
    assert content_hash(copy) == base
    (copy / "tokenizer_config.json").write_text("{}")
    assert content_hash(copy) == base
    _change_weight(copy, 1.001)
    weights = content_hash(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    assert len({base, weights, content_hash(copy)}) == 3
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        content_hash(copy)
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        content_hash(tmp_path / "gone")


def test_a_member_named_twice_is_measured_once(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    settings = {"texts": [text], **SETTINGS}
    rows = evaluate(stories, student, tmp_path / "out", members=[0, 0, 2], **settings)
    measured = [row for row in rows if row.metric == "perplexity"]
    assert [row.member for row in measured] == [(), (0, 1, 2)]
    every = evaluate(stories, student, tmp_path / "other", **settings)
    assert {row for row in measured} <= set(every)


def test_a_difference_is_to_the_next_smaller_size_whatever_is_asked_for(
    tmp_path: Path, stories: Path, student: Path, text: Path
) -> None:
    settings = {"texts": [text], **SETTINGS}
    first = evaluate(stories, student, tmp_path / "out", **settings)
    for chosen in ([0, 2], [2], None):
        evaluate(stories, student, tmp_path / "out", members=chosen, **settings)
    assert current(read_results(tmp_path / "out")) == first
    alone = evaluate(stories, student, tmp_path / "alone", members=[0, 2], **settings)
    assert _values(alone, "perplexity_difference") == []
