"""Verdicts on the paper's claims, from rows alone: each kind of them, by its stated rule."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from boomerang.evaluate.results import Row
from boomerang.study import Study
from boomerang.study.execute import preview
from result_rows import metric_rows, write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import claims

# By series a perplexity for each of 5 to 8 layers, as the paper would have them.
GOOD = {
    "family": [20.0, 19.0, 18.5, 18.0],
    "naive": [60.0, 45.0, 30.0, 18.0],
    "random": [80.0, 90.0, 100.0, 18.0],
    "paper": [20.0, 19.5, 19.0, 18.0],
    "ce": [20.0, 21.0, 20.0, 18.0],
    "ce + kl": [20.0, 21.0, 20.0, 18.0],
    "ce + cosine": [20.0, 19.5, 19.0, 18.0],
    "every 3rd": [25.0, 22.0, 20.0, 18.0],
    "every 4th": [30.0, 33.0, 25.0, 18.0],
    "every 5th": [40.0, 60.0, 40.0, 18.0],
    "24 steps": [40.0, 45.0, 30.0, 18.0],
    "600 steps": [19.0, 18.5, 18.2, 18.0],
}
ALONE = {"distilled": [20.1, 19.2, 18.6], "shortgpt": [40.0, 30.0, 22.0], "laco": [50, 28, 23]}

BAD = {
    "smoothness": ("family", [20.0, 46.0, 18.5, 18.0]),
    "conditions": ("random", [15.0, 15.0, 15.0, 18.0]),
    "individually": ("distilled", [10.0, 10.0, 10.0]),
    "pruners": ("laco", [10.0, 10.0, 10.0]),
    "loss_terms": ("ce", [60.0, 60.0, 60.0, 18.0]),
    "budgets": ("600 steps", [90.0, 90.0, 90.0, 18.0]),
}
UNDECIDED = {
    "smoothness": ("family", [20.0, 21.0, 18.5, 18.0]),
    "conditions": ("random", [80.0, 45.0, 40.0, 18.0]),
    "pruners": ("laco", [40.0, 28.0, 10.0]),
    "loss_terms": ("ce + cosine", [20.0, 20.8, 19.0, 18.0]),
    "kept_layers": ("every 4th", [30.0, 29.0, 25.0, 18.0]),
    "budgets": ("24 steps", [40.0, 30.0, 20.0, 18.0]),
}


def study(**changes: list[float]) -> claims.Study:
    rows = []
    # Two seeds, half a percent apart.
    for seed, factor in ((0, 1.0), (1, 1.005)):
        for name, values in ({**GOOD, **ALONE} | changes).items():
            scaled = [factor * value for value in values]
            found = metric_rows(name, "perplexity", [*scaled, 18.0][:4])
            rows += [
                row.model_copy(update={"seed": seed})
                for row in [each for each in found if each.metric == "perplexity"][: len(values)]
            ]
    return claims.Study.of(rows, JOBS)


JOBS: list[dict[str, Any]] = [
    {
        "kind": "distil", "series": [series], "seed": 0, "num_layers": layers, "tokens": 1000,
        "flops": 1000 * layers, "cpu_seconds": 2.0, "resumed": False,
    }
    for series, layers in (("family", 5), ("distilled", 6), ("distilled", 7))
]  # fmt: skip
RULES = ["smoothness", "conditions", "individually", "pruners", "loss_terms", "kept_layers"]
RULES += ["budgets", "cost"]


@pytest.mark.parametrize("rule", RULES)
def test_what_the_paper_found_is_shown(rule: str) -> None:
    assert getattr(claims, rule)(study())[1] == "shown"


@pytest.mark.parametrize("rule", BAD)
def test_the_opposite_contradicts(rule: str) -> None:
    series, values = BAD[rule]
    assert getattr(claims, rule)(study(**{series: values}))[1] == "contradicted"


@pytest.mark.parametrize("rule", UNDECIDED)
def test_what_is_in_between_is_not_shown(rule: str) -> None:
    series, values = UNDECIDED[rule]
    assert getattr(claims, rule)(study(**{series: values}))[1] == "not shown at this scale"


def test_a_sparser_list_that_works_where_a_denser_one_does_not_contradicts() -> None:
    changed = study(**{"every 3rd": GOOD["every 4th"], "every 4th": GOOD["every 3rd"]})
    assert claims.kept_layers(changed)[1] == "contradicted"


def test_sparse_lists_that_all_work_contradict() -> None:
    good = GOOD["every 3rd"]
    assert claims.kept_layers(study(**{"every 4th": good, "every 5th": good}))[1] == "contradicted"


def test_a_flat_curve_that_falls_at_the_teacher_only_is_not_smooth() -> None:
    assert claims.smoothness(study(family=[20.0, 20.5, 20.5, 18.0]))[1] == "not shown at this scale"


def test_small_rises_that_add_up_are_not_smooth() -> None:
    assert claims.smoothness(study(family=[20.0, 20.5, 21.0, 15.0]))[1] == "not shown at this scale"


def test_a_random_student_that_gains_as_much_contradicts() -> None:
    assert claims.conditions(study(random=[80.0, 40.0, 19.5, 18.0]))[1] == "contradicted"


def test_a_family_that_costs_more_than_a_size_by_itself_contradicts() -> None:
    made = study()
    dear = [line | {"cpu_seconds": 3.0} if "family" in line["series"] else line for line in JOBS]
    assert claims.cost(claims.Study(made.curves, dear))[1] == "contradicted"


def test_rows_of_two_texts_are_refused() -> None:
    rows = metric_rows("family", "perplexity", GOOD["family"])
    other = [row.model_copy(update={"task": "another"}) for row in rows]
    with pytest.raises(ValueError, match="several values of task"):
        claims.Study.of([*rows, *other], [])


def test_seeds_that_overlap_decide_nothing() -> None:
    curves = {"family": {5: [20.0, 22.0], 6: [19.0, 19.0]}, "distilled": {5: [19.0, 20.5]}}
    assert claims.individually(claims.Study(curves, []))[1] == "not shown at this scale"


def test_the_cost_of_sizes_that_were_not_distilled_is_known() -> None:
    # 5 + 6 + 7 layers against 5.
    assert "would take 1.80e+04 FLOP, 3.6 times the family's" in claims.cost(study())[0]


def test_sections_are_of_what_was_measured(tmp_path: Path) -> None:
    rows: list[Row] = [
        row.model_copy(update={"seed": seed})
        for seed in (0, 1)
        for name in ("family", "naive")
        for row in metric_rows(name, "perplexity", [value + seed for value in GOOD[name]])
    ]
    write_results(tmp_path, rows)
    (tmp_path / "jobs.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in JOBS))
    text = "\n".join(claims.sections(claims.read_study(tmp_path)))
    assert text.count("## ") == 1
    assert "| family | 20.50 ± 0.71 |" in text
    assert "**Shown.**" in text


def test_its_series_are_those_of_the_shipped_study() -> None:
    shipped = Study.load("claims")
    known = {*shipped.series(), "shortgpt", "laco", "distilled"}
    assert {name for each in claims.SECTIONS for name in (*each.series, *each.beside)} <= known
    assert {each.figure for each in claims.SECTIONS if each.figure} == set(shipped.figures)


DOCS = Path(__file__).parents[1] / "docs"


def test_nothing_is_left_to_do_of_the_recorded_study() -> None:
    plan, missing = preview(Study.load("claims"), DOCS / "claims")
    assert len(plan.jobs) == 63
    assert missing == []


def test_the_page_says_what_its_records_say() -> None:
    page = (DOCS / "claims.md").read_text(encoding="utf-8")
    for section in claims.sections(claims.read_study(DOCS / "claims")):
        assert section in page
    for each in claims.SECTIONS:
        assert each.figure is None or (DOCS / "images" / f"claims-{each.figure}.png").is_file()
