"""What cannot be measured is told in one line, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from boomerang import LayerMap, init_student
from boomerang.cli import app
from boomerang.errors import DataError
from boomerang.evaluate import evaluate, options
from boomerang.evaluate import tasks as loading
from boomerang.evaluate.tasks import AVERAGES, average, expand
from task_files import KINDS, write_tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tasks(tmp_path_factory.mktemp("tasks"))
    (directory / "nodata.yaml").write_text(
        "task: nodata\ndataset_path: no-owner/no-data\noutput_type: multiple_choice\n"
        "test_split: test\n"
    )
    unsafe = (directory / "choices.yaml").read_text().replace("task: choices", "task: unsafe")
    (directory / "unsafe.yaml").write_text(unsafe + "unsafe_code: true\n")
    broken = (directory / "choices.yaml").read_text().replace("task: choices", "task: broken")
    (directory / "broken.yaml").write_text(broken.replace("{{choices}}", "{{context}}"))
    long = (directory / "generating.yaml").read_text().replace("task: generating", "task: long")
    (directory / "long.yaml").write_text(long.replace("max_gen_toks: 6", "max_gen_toks: 600"))
    needy = (directory / "choices.yaml").read_text().replace("task: choices", "task: needy")
    (directory / "needy.yaml").write_text(needy + "process_docs: !function needy.process\n")
    (directory / "needy.py").write_text("import no_such_module\n")
    return directory


@pytest.fixture(scope="module")
def student(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return init_student(
        stories, tmp_path_factory.mktemp("students") / "student", LayerMap((0, 2, 4), 5)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "sentence"}, r"sentence: there is no such task; is it sentences"),
        ({"tasks": ","}, "no task is named"),
        ({"tasks": "choices", "include_path": "nowhere"}, "nowhere: is not a directory"),
        ({"tasks": "choices", "limit": 0}, "limit: input should be greater than 0, not 0"),
        ({"tasks": "choices", "limit": float("inf")}, "choices: cannot make its requests"),
        ({"tasks": "choices", "num_fewshot": -1}, "num_fewshot: .* equal to 0, not -1"),
        ({"tasks": "choices", "num_fewshot": 60}, "choices: cannot make its requests"),
        ({"tasks": "choices", "apply_chat_template": True}, "has no chat template"),
        (
            {"tasks": "generating", "gen_kwargs": "nonsense"},
            "gen_kwargs: 'nonsense' is no option",
        ),
        (
            {"tasks": "generating", "gen_kwargs": "max_gen_toks=many"},
            r"generating: has options of generation that cannot be used \(ValueError",
        ),
        (
            {"tasks": "generating", "gen_kwargs": "max_gen_toks=0"},
            "generating: generates up to 0 tokens with 512 positions; .* max_gen_toks=N",
        ),
        ({"tasks": "nodata"}, r"nodata: cannot be loaded \(.*no-owner/no-data"),
        ({"tasks": "unsafe"}, "unsafe: runs code that models write"),
        ({"tasks": "broken"}, r"broken: cannot be loaded \(SyntaxError"),
        ({"tasks": "needy"}, r"needy: cannot be loaded \(.*no_such_module"),
        ({"tasks": "long"}, "long: generates up to 600 tokens"),
        ({"tasks": "both,choices"}, "tasks: .*Duplicate task 'choices'"),
        ({}, "there is nothing to measure on"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    settings: dict[str, Any],
    message: str,
    stories: Path,
    student: Path,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Listing the harness's own tasks takes long, and adds nothing here.
    whole = loading.TaskManager
    monkeypatch.setattr(
        loading, "TaskManager", lambda **given: whole(**{**given, "include_defaults": False})
    )
    out = tmp_path / "out"
    with pytest.raises(DataError, match=message) as caught:
        evaluate(stories, student, out, **{"include_path": tasks, **settings})
    assert len(str(caught.value).splitlines()) == 1
    assert not out.exists()


def test_without_the_extra_there_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pip install "boomerang-distillation\[tasks\]"'):
        evaluate("teacher", "student", "out", tasks="arc_easy")


def test_the_command_line_prints_rows_and_nothing_else(
    stories: Path, student: Path, tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        "evaluate", str(stories), str(student), str(tmp_path / "out"),
        "--tasks", "both,generating", "--include-path", str(tasks),
        "--limit", "4", "--batch-size", "2", "--members", "0,2",
    ]  # fmt: skip
    app([*command, "--json"], standalone_mode=False)
    printed = capfd.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert {row["task"] for row in rows} == {"both", "choices", "shots", "generating"}
    assert {row["items"] for row in rows} == {4, 8}
    assert "Running" not in printed.err and "it/s" not in printed.err
    app(command, standalone_mode=False)
    table = capfd.readouterr().out
    assert "exact_match" in table and "±" in table and "~" in table
    assert max(map(len, table.splitlines())) <= 80


def test_paper_is_the_suite_and_goes_with_others() -> None:
    suite = expand(["paper"])
    assert len(suite) == 14
    assert {"arc_easy", "mmlu", "rte", "gsm8k_cot", "hendrycks_math", "wikitext"} <= {*suite}
    assert expand(["own", "paper", "mmlu"]) == ("own", *suite)


def test_an_average_weighs_tasks_equally() -> None:
    parts = [("a", "acc,none"), ("b", "acc,none")]
    values: dict[Any, Any] = {("a", "acc,none"): (0.5, 0.3, 10), ("b", "acc,none"): (1.0, 0.4, 90)}
    assert average(parts, values) == pytest.approx((0.75, 0.25, 100))
    values["b", "acc,none"] = (1.0, None, 90)
    assert average(parts, values) == (0.75, None, 100)
    del values["b", "acc,none"]
    assert average(parts, values) is None


def test_the_suite_over_stand_ins(stories: Path, student: Path, tmp_path: Path) -> None:
    """The paper's tasks under their own names, over data of ours."""
    choices = (task for task, _ in AVERAGES["paper/classification", "acc"] if task != "mmlu")
    stand_ins = {
        **{task: KINDS["choices"] for task in choices},
        "gsm8k_cot": {**KINDS["generating"], "filter_list": [
            {**KINDS["generating"]["filter_list"][0], "name": "strict-match"}
        ]},
        "ifeval": KINDS["choices"],
        "hendrycks_math_algebra": {**KINDS["generating"], "filter_list": None},
        "wikitext": KINDS["rolling"],
        "mmlu_one": KINDS["choices"],
    }  # fmt: skip
    write_tasks(tmp_path, stand_ins)
    (tmp_path / "ifeval.yaml").write_text(
        (tmp_path / "ifeval.yaml").read_text() + "process_results: !function judge.strict\n"
    )
    text = (tmp_path / "ifeval.yaml").read_text()
    (tmp_path / "ifeval.yaml").write_text(
        text.replace("metric: acc\n", "metric: prompt_level_strict_acc\n")
    )
    (tmp_path / "judge.py").write_text(
        "def strict(doc, results):\n"
        "    right = max(range(3), key=lambda i: results[i][0]) == doc['gold']\n"
        "    return {'prompt_level_strict_acc': float(right), 'acc_norm': float(right)}\n"
    )
    for group, part, metric in (
        ("mmlu", "mmlu_one", "acc"), ("hendrycks_math", "hendrycks_math_algebra", "exact_match"),
    ):  # fmt: skip
        (tmp_path / f"{group}.yaml").write_text(
            f"group: {group}\ntask: [{part}]\naggregate_metric_list:\n"
            f"  - metric: {metric}\n    weight_by_size: true\n"
        )
    rows = evaluate(
        stories, student, tmp_path / "out", tasks="paper", include_path=tmp_path, members=[2]
    )
    values = {row.measure: row for row in rows}
    choices = values["arc_easy", "acc"]
    classification = values["paper/classification", "acc"]
    assert classification.value == pytest.approx(choices.value)
    assert choices.stderr is not None
    assert classification.stderr == pytest.approx(choices.stderr / 10**0.5)
    assert classification.items == 60
    assert (
        values["paper/perplexity", "word_perplexity"].value
        == values["wikitext", "word_perplexity"].value
    )
    generation = values["paper/generation", "acc"]
    parts = [
        values["gsm8k_cot", "exact_match,strict-match"],
        values["ifeval", "prompt_level_strict_acc"],
        values["hendrycks_math", "exact_match"],
    ]
    assert generation.value == pytest.approx(sum(part.value for part in parts) / 3)
