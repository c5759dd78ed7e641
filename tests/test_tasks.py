"""Tasks of lm-evaluation-harness, for all members at once, and what the harness says of each."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

import boomerang
from boomerang import Family, LayerMap, init_student
from boomerang.evaluate import evaluate, outcome
from boomerang.evaluate.harness import Harness
from boomerang.evaluate.options import Measure
from boomerang.evaluate.results import Row, read_results
from boomerang.evaluate.scorer import Scorer
from task_files import KINDS, write_tasks
from test_evaluate_run import _change_weight

LAYERS = LayerMap((0, 2, 4), 5)
ORDER = "first-to-last"
EXAMPLES = Path(__file__).parents[1] / "examples" / "tasks"
NAMES = "both,sentences,rolling,generating"

Found = dict[tuple[str, str], tuple[float, float | None]]


@pytest.fixture(autouse=True, scope="module")
def few_bootstraps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "_BOOTSTRAPS", 1000)
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def student(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("students") / "student"
    init_student(stories, out, LAYERS)
    _change_weight(out, 1.01)
    return out


@pytest.fixture(scope="module")
def measured(
    stories: Path, student: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Row]]:
    """An evaluation of every kind of task, and its rows."""
    out = tmp_path_factory.mktemp("measured") / "out"
    rows = evaluate(
        stories, student, out, tasks=NAMES, include_path=tasks, order=ORDER, log_samples=True
    )
    return out, rows


def harness(model: Any, tasks: Path, **options: Any) -> Found:
    """What lm-evaluation-harness says itself."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=NAMES.split(","),
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            bootstrap_iters=1000,
            log_samples=False,
            **options,
        )
    return {
        (task, key.removesuffix(",none")): (value, metrics[key.replace(",", "_stderr,")])
        for task, metrics in found["results"].items()
        for key, value in metrics.items()
        if "," in key and "_stderr" not in key
    }


def ours(rows: list[Row], patched: tuple[int, ...]) -> Found:
    return {
        row.measure: (row.value, row.stderr)
        for row in rows
        if row.member == patched and not row.metric.endswith("_difference")
    }


def assert_the_same(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    assert len(found) == 10
    for measure, (value, stderr) in expected.items():
        logarithmic = "perplexity" in measure[1]
        assert found[measure][0] == pytest.approx(value, rel=1e-4 if logarithmic else 1e-6)
        if stderr == "N/A":
            assert found[measure][1] is None
        else:
            assert found[measure][1] == pytest.approx(stderr, rel=1e-3)


@pytest.mark.parametrize("patch", [0, 1, 2])
def test_every_member_has_the_harness_s_own_metrics(
    patch: int, measured: tuple[Path, list[Row]], stories: Path, student: Path, tasks: Path
) -> None:
    family = Family.from_pretrained(stories, student)
    member = family.layers.member(patch=patch, order=ORDER)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    model = HFLM(pretrained=family.model(member), tokenizer=tokenizer, batch_size=4)
    assert_the_same(ours(measured[1], member.patched), harness(model, tasks))


def test_a_built_member_has_the_same_metrics(
    measured: tuple[Path, list[Row]], stories: Path, student: Path, tasks: Path, tmp_path: Path
) -> None:
    boomerang.build(stories, student, tmp_path / "built", patch=1, order=ORDER)
    expected = harness(
        "hf", tasks, model_args={"pretrained": str(tmp_path / "built")}, device="cpu"
    )
    assert_the_same(ours(measured[1], (0,)), expected)


def test_the_task_tells_members_apart(measured: tuple[Path, list[Row]]) -> None:
    perplexity = {row.member: row.value for row in measured[1] if row.metric == "word_perplexity"}
    assert perplexity[()] > 10 * perplexity[0, 1, 2]


def test_rows_are_those_on_disk_and_differences_are_paired(
    measured: tuple[Path, list[Row]],
) -> None:
    out, rows = measured
    assert read_results(out) == rows
    values = {(row.member, *row.measure): row for row in rows}
    compared = [row for row in rows if row.metric.endswith("_difference")]
    assert {row.task for row in compared} == {*KINDS}
    for row in compared:
        smaller = {(0,): (), (0, 1, 2): (0,)}[row.member]
        metric = row.metric.removesuffix("_difference")
        ends = [values[member, row.task, metric] for member in (row.member, smaller)]
        assert row.value == pytest.approx(ends[0].value - ends[1].value)
        assert row.stderr is not None
    # Of six documents one is right with the larger member only: its error is that of a mean of
    # the differences 1, 0, 0, 0, 0, 0.
    (choices,) = [
        row
        for row in compared
        if row.member == (0,) and row.measure[1] == "acc_difference" and row.task == "choices"
    ]
    assert (choices.value, choices.stderr) == pytest.approx((1 / 6, 1 / 6))


def test_samples_are_written_as_the_harness_writes_them(measured: tuple[Path, list[Row]]) -> None:
    out, _ = measured
    files = sorted(path.relative_to(out) for path in out.glob("samples/*/*/*"))
    assert len(files) == 3 * 5
    assert files[0] == Path("samples/family/patched-0/samples_choices.jsonl")
    lines = (out / files[0]).read_text().splitlines()
    assert len(lines) == 6
    sample = json.loads(lines[0])
    assert sample["arguments"]["gen_args_0"]["arg_0"] == "Once upon a time, there was a little"
    assert sample["acc"] == 1.0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A list that grows with each question: of which kind, and to how many layers."""
    found: list[tuple[str, int]] = []
    run, generate = Scorer.run, HFLM.generate_until

    def scoring(scorer: Any, requests: Any) -> Any:
        for scored in run(scorer, requests):
            depths = [model.config.num_hidden_layers for model in scorer.models]
            found.extend(("score", depth) for depth in depths for _ in scored.requests)
            yield scored

    def generating(model: Any, requests: Any, **kwargs: Any) -> Any:
        found.extend(("generate", model.config.num_hidden_layers) for _ in requests)
        return generate(model, requests, **kwargs)

    monkeypatch.setattr(Scorer, "run", scoring)
    monkeypatch.setattr(HFLM, "generate_until", generating)
    return found


def test_what_was_answered_is_not_asked_again(
    stories: Path, student: Path, tasks: Path, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    settings: dict[str, Any] = {"include_path": tasks, "order": ORDER}
    out = tmp_path / "out"
    first = evaluate(stories, student, out, tasks="choices", members=[0], **settings)
    assert {*asked} == {("score", 3)}
    asked.clear()
    # Another member joins, and a task.
    whole = evaluate(stories, student, out, tasks="choices,generating", **settings)
    assert {*asked} == {("score", 4), ("score", 5)} | {("generate", depth) for depth in (3, 4, 5)}
    assert first[0] in whole
    asked.clear()
    written = (out / "results.jsonl").read_bytes()
    assert evaluate(stories, student, out, tasks="choices,generating", **settings) == whole
    assert not asked
    assert (out / "results.jsonl").read_bytes() == written


def test_differences_do_not_depend_on_the_order_of_members(
    measured: tuple[Path, list[Row]], stories: Path, student: Path, tasks: Path, tmp_path: Path
) -> None:
    rows = evaluate(
        stories, student, tmp_path / "out", tasks=NAMES, include_path=tasks, order=ORDER,
        members=[2, 1],
    )  # fmt: skip
    wanted = {row.key for row in measured[1] if row.member == (0, 1, 2)}
    assert {row.key for row in rows if row.member == (0, 1, 2)} == wanted
    assert any(metric.endswith("_difference") for *_, metric in wanted)


def test_a_killed_run_loses_only_what_was_not_written(
    stories: Path, student: Path, tasks: Path, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    settings: dict[str, Any] = {
        "tasks": "rolling,generating", "include_path": tasks, "order": ORDER, "batch_size": 2,
    }  # fmt: skip
    whole = evaluate(stories, student, tmp_path / "out", **settings)
    scores = tmp_path / "out" / "scores.jsonl"
    lines = scores.read_bytes().splitlines(keepends=True)
    scores.write_bytes(b"".join(lines[:-1]) + lines[-1][:-30])
    for name in ("results.jsonl", "outcomes.jsonl"):
        (tmp_path / "out" / name).unlink()
    asked.clear()
    assert evaluate(stories, student, tmp_path / "out", **settings) == whole
    assert {*asked} == {("generate", 5)}


def test_a_metric_that_only_some_documents_have_is_not_paired(
    stories: Path, student: Path, tmp_path: Path
) -> None:
    """Which documents have it depends on the answers, so that members may have different ones."""
    directory = write_tasks(tmp_path, {"some": KINDS["choices"]})
    (directory / "some.yaml").write_text(
        (directory / "some.yaml").read_text() + "process_results: !function some.judge\n"
    )
    (directory / "some.py").write_text(
        "def judge(doc, results):\n"
        "    first = max(range(3), key=lambda i: results[i][0])\n"
        "    found = {'acc': float(first == doc['gold'])}\n"
        "    return found | ({'acc_norm': 1.0} if results[0][0] > -8 else {})\n"
    )
    out = tmp_path / "out"
    rows = evaluate(stories, student, out, tasks="some", include_path=directory, order=ORDER)
    metrics = {row.metric for row in rows}
    assert metrics == {"acc", "acc_norm", "acc_difference"}
    # As a damaged file has it.
    path = out / "outcomes.jsonl"
    broken = json.loads(path.read_text().splitlines()[0])
    broken["by_document"]["acc"] = [1.0]
    path.write_text(json.dumps(broken) + "\n")
    with pytest.raises(
        boomerang.errors.ResultsError, match=r'outcomes\.jsonl line 1: field "by_document"'
    ):
        evaluate(stories, student, out, tasks="some", include_path=directory, order=ORDER)


def test_an_interrupted_generation_begins_again_with_its_member(
    stories: Path, student: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "tasks": "generating", "include_path": tasks, "members": [1, 2], "batch_size": 2,
    }  # fmt: skip
    batches: list[int] = []
    generate = HFLM._model_generate

    def interrupted(model: Any, context: Any, **kwargs: Any) -> Any:
        if len(batches) == 5:
            batches.append(0)
            raise KeyboardInterrupt
        batches.append(len(context))
        return generate(model, context, **kwargs)

    monkeypatch.setattr(HFLM, "_model_generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(stories, student, tmp_path / "out", **settings)
    rows = evaluate(stories, student, tmp_path / "out", **settings)
    assert batches == [2, 2, 2, 2, 2, 0, 2, 2, 2]
    monkeypatch.undo()
    assert rows == evaluate(stories, student, tmp_path / "whole", **settings)


def test_a_broken_member_is_refused_before_it_generates(
    stories: Path, tasks: Path, tmp_path: Path
) -> None:
    init_student(stories, tmp_path / "student", LAYERS)
    _change_weight(tmp_path / "student", 7e37)
    settings: dict[str, Any] = {"include_path": tasks, "members": [0]}
    out = tmp_path / "out"
    with pytest.raises(boomerang.errors.ResultsError, match=r"member \[\]: .* not finite"):
        evaluate(stories, tmp_path / "student", out, tasks="generating", **settings)
    assert not out.exists()


def test_generation_takes_smaller_batches_where_memory_does_not_suffice(
    stories: Path, student: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"tasks": "generating", "include_path": tasks, "members": [2]}
    expected = evaluate(stories, student, tmp_path / "whole", **settings)
    sizes: list[int] = []
    generate = HFLM._model_generate

    def limited(model: Any, context: Any, **kwargs: Any) -> Any:
        sizes.append(len(context))
        if len(context) > 2:
            raise torch.OutOfMemoryError
        return generate(model, context, **kwargs)

    monkeypatch.setattr(HFLM, "_model_generate", limited)
    assert evaluate(stories, student, tmp_path / "out", **settings) == expected
    assert sizes == [6, 6, 4, 2, 2, 2]


def test_a_changed_student_answers_anew(
    stories: Path, tasks: Path, tmp_path: Path, asked: list[tuple[str, int]]
) -> None:
    init_student(stories, tmp_path / "student", LAYERS)
    settings: dict[str, Any] = {"tasks": "rolling", "include_path": tasks, "order": ORDER}
    old = evaluate(stories, tmp_path / "student", tmp_path / "out", **settings)
    first = list(asked)
    _change_weight(tmp_path / "student", 1.2)
    new = evaluate(stories, tmp_path / "student", tmp_path / "out", **settings)
    assert asked == first * 2
    assert old[0].value != new[0].value


def test_other_settings_of_a_task_are_refused(
    stories: Path, student: Path, tasks: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"include_path": tasks, "members": [0]}
    out = tmp_path / "out"
    evaluate(stories, student, out, tasks="shots", **settings)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for other, message in (
        ({"num_fewshot": 1}, "num_fewshot of shots is 2 there and 1 here"),
        ({"limit": 3}, r"limit of shots is None there and 3 here"),
        ({"limit": 0.5}, r"content of shots is"),
        ({"system_instruction": "Answer."}, "system_instruction of shots"),
    ):
        with pytest.raises(boomerang.errors.OutputError, match=message):
            evaluate(stories, student, out, tasks="shots", **other, **settings)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_settings_of_a_task_bind_with_its_first_answers(
    stories: Path, student: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"include_path": tasks, "members": [0], "tasks": "rolling,shots"}
    out = tmp_path / "out"
    whole, done = Scorer.run, []

    def interrupted(scorer: Scorer, requests: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(scorer)
        yield from whole(scorer, requests)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Scorer, "run", interrupted)
        evaluate(stories, student, out, **settings)
    assert set(json.loads((out / "evaluation.json").read_text())["tasks"]) == {"rolling"}
    # The second task was not asked anything, and may be asked otherwise; the first may not.
    rows = evaluate(stories, student, out, **{**settings, "tasks": "shots"}, limit=3)
    assert {row.items for row in rows} == {3}
    with pytest.raises(boomerang.errors.OutputError, match="limit of rolling is None there"):
        evaluate(stories, student, out, **{**settings, "tasks": "rolling"}, limit=3)


def test_limit_and_gen_kwargs_reach_the_harness(
    stories: Path, student: Path, tasks: Path, tmp_path: Path
) -> None:
    rows = evaluate(
        stories, student, tmp_path / "out", tasks=["choices", "generating"], include_path=tasks,
        limit=2, gen_kwargs="max_gen_toks=1", members=[2], log_samples=True,
    )  # fmt: skip
    assert {row.items for row in rows} == {2}
    (path,) = (tmp_path / "out").glob("samples/*/*/samples_generating.jsonl")
    assert '"max_gen_toks": 1' in path.read_text()


def test_a_chat_template_is_the_harness_s(
    stories: Path, student: Path, tasks: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(stories, teacher)
    (teacher / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat: dict[str, Any] = {"apply_chat_template": True, "system_instruction": "Be kind."}
    rows = evaluate(
        teacher, student, tmp_path / "out", tasks=NAMES, include_path=tasks, members=[2], **chat
    )
    family = Family.from_pretrained(teacher, student)
    model = HFLM(
        pretrained=family.model(2), tokenizer=AutoTokenizer.from_pretrained(teacher), batch_size=4
    )
    assert_the_same(ours(rows, (0, 1, 2)), harness(model, tasks, **chat))


def test_the_examples_run_from_anywhere(
    stories: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = evaluate(
        stories, student, "out", tasks="examples", include_path=EXAMPLES, limit=2, members=[2],
        gen_kwargs={"max_gen_toks": 4},
    )  # fmt: skip
    assert {row.task for row in rows} == {path.stem for path in EXAMPLES.glob("example_*.yaml")}
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir() if path.is_file()) < 100_000


def test_text_and_tasks_go_together(
    stories: Path, student: Path, tasks: Path, stories_text: Path, tmp_path: Path
) -> None:
    text = tmp_path / "heldout.txt"
    text.write_text(stories_text.read_text()[:500])
    out = tmp_path / "out"
    rows = evaluate(stories, student, out, texts=[text], members=[0, 2])
    both = evaluate(
        stories, student, out, texts=[text], tasks="choices", include_path=tasks, members=[0, 2]
    )
    assert both[: len(rows)] == rows
    assert {row.task for row in both[len(rows) :]} == {"choices"}
    text.rename(tmp_path / "choices.txt")
    with pytest.raises(boomerang.errors.DataError, match="choices: a text and a task"):
        evaluate(
            stories, student, tmp_path / "no", texts=[tmp_path / "choices.txt"], tasks="choices",
            include_path=tasks,
        )  # fmt: skip
    assert not (tmp_path / "no").exists()


def test_requests_that_change_are_caught(stories: Path, student: Path, tasks: Path) -> None:
    family = Family.from_pretrained(stories, student)
    prepared = Harness(
        family,
        AutoTokenizer.from_pretrained(stories),
        Measure.of({"tasks": "choices", "include_path": tasks}),
        tasks,
    )
    recorded = prepared.tasks[0].recorded
    recorded.reset()
    recorded.task.instances[3].doc["gold"] = 0
    with pytest.raises(boomerang.errors.ResultsError, match="choices: its requests changed"):
        recorded.reset()


def test_what_is_not_measured_is_not_imported() -> None:
    code = (
        "import sys, boomerang, boomerang.evaluate, boomerang.cli\n"
        "import boomerang.evaluate.measure, boomerang.evaluate.options\n"
        "assert 'lm_eval' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
