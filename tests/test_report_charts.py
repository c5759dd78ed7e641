"""What is drawn: lines, means over tasks, close-ups, axes and where names stand."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from boomerang.evaluate.results import Row
from boomerang.report.charts import Chart, charts
from boomerang.report.external import External
from boomerang.report.sentences import better_and_smaller
from boomerang.report.sources import ResultSet
from boomerang.report.words import show_with_error, styles
from result_rows import FAMILY, NAIVE, RANDOM, metric_rows, text_rows

ACC = [0.4, 0.5, 0.6, 0.7]


def _set(rows: list[Row], name: str = "results") -> ResultSet:
    return ResultSet(name, Path(name), tuple(rows), None, (), {})


def _acc(task: str, values: list[float], **changes: object) -> list[Row]:
    return metric_rows("family", "acc", values, task=task, **changes)


def test_a_mean_is_over_the_tasks_that_every_set_has() -> None:
    first = _set([*_acc("arc", ACC), *_acc("piqa", [a + 0.1 for a in ACC]), *_acc("rte", ACC)], "a")
    second = _set([*_acc("piqa", ACC, student="x"), *_acc("arc", ACC, student="x")], "b")
    mean, *others = charts([first, second], {})
    assert (mean.task, mean.averaged) == ("average of 2 tasks", ("arc", "piqa"))
    assert [line.label for line in mean.lines] == ["boomerang family · a", "boomerang family · b"]
    point = mean.lines[0].points[1]
    assert point.value == pytest.approx(0.55)
    assert point.stderr == pytest.approx(math.sqrt(0.5**2 + 0.5**2) / 2)
    # The paired errors of the differences, 0.2 each, are averaged like the others.
    assert point.change == pytest.approx((0.1, math.sqrt(0.2**2 + 0.2**2) / 2))
    assert [chart.task for chart in others] == ["arc", "piqa", "rte"]


def test_a_group_stands_for_its_parts_and_perplexities_are_not_averaged() -> None:
    tasks = ("mmlu", "mmlu_social", "mmlu_law", "arc")
    rows = [row for task in tasks for row in _acc(task, ACC)]
    rows += text_rows("family", FAMILY) + text_rows("family", FAMILY, task="stories")
    groups = {
        "mmlu": {"tasks": ["mmlu_law", "mmlu_art"]},
        "mmlu_social": {"tasks": ["mmlu_law"]},
        "arc": {"num_fewshot": 0},
    }
    one = replace(_set(rows), settings={"tasks": groups})
    means = [chart for chart in charts([one], {}) if chart.averaged]
    assert [(chart.metric, chart.averaged) for chart in means] == [
        ("acc", ("mmlu", "arc")),
        ("bits_per_byte", ("books", "stories")),
    ]


def test_a_mean_that_was_measured_is_shown_first_and_not_taken_again() -> None:
    rows = [*_acc("arc", ACC), *_acc("piqa", ACC), *_acc("paper/classification", ACC)]
    found = charts([_set(rows)], {})
    assert [chart.task for chart in found] == ["paper/classification", "arc", "piqa"]


def test_who_was_not_measured_on_all_tasks_is_left_out_and_named() -> None:
    rows = [*_acc("arc", ACC), *_acc("piqa", ACC)]
    rows += metric_rows("naive", "acc", ACC, task="arc")
    outside = [
        External("whole", 9, "arc", "acc", 0.2, 0.1, None, None),
        External("whole", 9, "piqa", "acc", 0.4, None, None, None),
        External("half", 8, "piqa", "acc", 0.4, None, None, None),
    ]
    mean = charts([_set(rows)], {"others": outside})[0]
    assert mean.left_out == ("half", "naive pruning")
    assert [line.label for line in mean.lines] == ["boomerang family", "others"]
    (point,) = mean.lines[-1].points
    assert (point.name, point.value, point.stderr) == ("whole", pytest.approx(0.3), None)


def test_there_is_no_mean_where_no_model_was_measured_on_all_tasks() -> None:
    arc, piqa = _acc("arc", ACC), _acc("piqa", ACC)
    rows = [*[row for row in arc if row.patch < 2], *[row for row in piqa if row.patch > 1]]
    assert [chart.task for chart in charts([_set(rows)], {})] == ["arc", "piqa"]


def test_a_baseline_that_two_sets_share_is_drawn_once() -> None:
    naive = text_rows("naive", NAIVE)
    first = _set([*text_rows("family", FAMILY, student="x"), *naive], "a")
    second = _set([*text_rows("family", FAMILY, student="y"), *naive], "b")
    chart = charts([first, second], {})[0]
    labels = [line.label for line in chart.lines]
    assert labels == ["boomerang family · a", "boomerang family · b", "naive pruning · a"]
    assert len({line.style for line in chart.lines}) == 3


def test_what_lies_flat_is_shown_again_by_itself() -> None:
    def found(others: list[float]) -> list[Chart]:
        rows = [*text_rows("family", FAMILY), *text_rows("random", others)]
        return [chart for chart in charts([_set(rows)], {}) if chart.metric == "perplexity"]

    whole, alone = found(RANDOM)
    assert len(whole.lines) == 2 and not whole.close_up
    assert [line.key.kind for line in alone.lines] == ["family"] and alone.close_up
    assert len(found([21.0, 22.0, 19.0, 18.0])) == 1


def test_noise_is_told_from_a_change() -> None:
    (line,) = charts([_set(text_rows("family", FAMILY))], {})[0].lines
    assert [point.is_noise for point in line.points] == [False, True, False, False]


def test_a_smaller_member_that_measured_better_is_told_of() -> None:
    def told(metric: str, values: list[float]) -> list[str]:
        (chart,) = charts([_set(metric_rows("family", metric, values))], {})
        points = chart.lines[0].points
        return [better_and_smaller(chart, points, index) for index in range(len(points))]

    rival = "6 layers measured better: 19.00 ± 0.50."
    assert told("perplexity", [20.0, 19.0, 21.0, 18.0]) == ["", "", rival, ""]
    assert (
        told("acc", [0.7, 0.6, 0.5, 0.7])[1:3] == ["5 layers measured better: 0.700 ± 0.500."] * 2
    )
    # Which way an unknown metric is better is not known.
    assert told("colour", [1.0, 2.0, 1.0, 2.0]) == [""] * 4


@pytest.mark.parametrize(
    ("series", "label", "connected"),
    [("shortgpt", "ShortGPT", True), ("pretrained", "pretrained", False)],
)
def test_models_that_stand_alone_have_no_ends_and_are_a_line_where_sizes_of_one_thing(
    series: str, label: str, connected: bool
) -> None:
    rows = text_rows("family", FAMILY)
    for layers in (5, 6):
        row = rows[0].model_copy(
            update={
                "series": series, "student": f"s{layers}", "member": (), "order": None,
                "num_layers": layers, "parameters": layers * 500_000,
            }
        )  # fmt: skip
        rows.append(row)
    line = charts([_set(rows)], {})[0].lines[-1]
    assert (line.label, line.key.connected) == (label, connected)
    assert [(point.layers, point.name) for point in line.points] == [(5, ""), (6, "")]


def test_styles_of_the_usual_baselines_are_fixed_and_all_differ() -> None:
    alone = styles([("baseline", "random")])
    several = styles(
        [("family", "family"), ("baseline", "laco"), ("baseline", "naive"), ("baseline", "random")]
    )
    assert several[3] == alone[0]
    assert len(set(several)) == 4


def test_every_colour_of_a_line_has_a_variable_in_both_themes() -> None:
    css = (files("boomerang.report") / "assets" / "page.css").read_text()
    kinds = ("family", "baseline", "external")
    colours = {style.color for kind in kinds for style in styles([(kind, "x")] * 6)}
    assert len(colours) == 8
    for colour in colours:
        # In the light theme, and in the dark one by the system's choice and by the reader's.
        assert css.count(f"--c{colour[1:].lower()}:") == 3


def test_numbers_are_spelled_alike() -> None:
    assert show_with_error(19.1386, 0.2124) == "19.14 ± 0.21"
    assert show_with_error(0.4, 0.012, sign=True) == "+0.400 ± 0.012"
    assert show_with_error(1234567.0, None) == "1.23e+06"
