"""Rows of several seeds: kept apart in files, averaged where they are shown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from boomerang.evaluate.results import Row, append_results, current, read_results
from boomerang.report.charts import charts, one_chart
from boomerang.report.sources import mean_over_seeds, read_sets
from boomerang.report.table import all_tables
from result_rows import FAMILY, NAIVE, metric_rows, text_rows, write_results


def seeded(seed: int, shift: float) -> list[Row]:
    values = [value + shift for value in FAMILY]
    rows = metric_rows("family", "perplexity", values, student=f"student {seed}")
    return [row.model_copy(update={"seed": seed}) for row in rows]


ROWS = [*seeded(0, 0.0), *seeded(1, 1.0), *metric_rows("naive", "perplexity", NAIVE)]


def test_a_seed_is_read_back_and_its_absence_is_not_written(tmp_path: Path) -> None:
    append_results(tmp_path / "results.jsonl", ROWS)
    assert read_results(tmp_path) == ROWS
    written = (tmp_path / "results.jsonl").read_text().splitlines()
    assert ["seed" in line for line in written] == [row.seed is not None for row in ROWS]


def test_each_seed_has_a_current_student() -> None:
    newer = [row.model_copy(update={"student": "newer", "value": 1.0}) for row in seeded(0, 0.0)]
    rows = current([*ROWS, *newer])
    assert {(row.series, row.seed, row.student) for row in rows} == {
        ("family", 0, "newer"), ("family", 1, "student 1"), ("naive", None, "naive"),
    }  # fmt: skip


def test_models_of_one_size_and_several_seeds_hold_together() -> None:
    [one, *_] = metric_rows("distilled", "perplexity", FAMILY)
    rows = [
        one.model_copy(update={"seed": seed, "student": str(seed), "order": None})
        for seed in (0, 1)
    ]
    assert current(rows) == rows
    assert [row.student for row in mean_over_seeds(rows)] == ["0"]


def test_means_have_the_error_of_items_and_of_seeds() -> None:
    means = mean_over_seeds(ROWS)
    first = next(row for row in means if row.series == "family")
    assert first.value == pytest.approx(FAMILY[0] + 0.5)
    # Over items 0.5; the standard deviation of two values one apart is √½, of their mean ½.
    assert first.stderr == pytest.approx(math.hypot(0.5, 0.5))
    assert (first.seed, first.student) == (None, "student 0")
    assert [row for row in means if row.series == "naive"] == [
        row for row in ROWS if row.series == "naive"
    ]
    assert mean_over_seeds(means) == means


def test_one_seed_is_shown_as_it_is() -> None:
    rows = seeded(3, 0.0)
    assert mean_over_seeds(rows) == [row.model_copy(update={"seed": None}) for row in rows]


def test_a_report_has_one_line_for_all_seeds(tmp_path: Path) -> None:
    found = one_chart(ROWS, metric="perplexity").lines
    assert [(line.key.series, len(line.points)) for line in found] == [("family", 4), ("naive", 4)]
    assert found[0].points[-1].name == "teacher"
    [one] = read_sets([write_results(tmp_path / "results", ROWS)])
    assert {row.seed for row in one.rows} == {None}
    assert len([row for row in one.rows if row.metric == "perplexity"]) == 8


def _missing_seed() -> list[Row]:
    """Two orders by two seeds, of which the first order lacks the second seed."""
    other = [row.model_copy(update={"order": "first-to-last"}) for row in seeded(1, 1.0)]
    more = [row.model_copy(update={"order": "first-to-last"}) for row in seeded(0, 0.0)]
    return [*seeded(1, 1.0), *other, *more]


def test_an_order_that_lacks_a_seed_is_shown(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", _missing_seed())
    lines = [line for chart in charts(read_sets([results]), {}) for line in chart.lines]
    drawn = [line.key[2] for line in lines] + [
        line.key[2] for line in one_chart(_missing_seed(), metric="perplexity").lines
    ]
    assert drawn == ["last-to-first", "first-to-last"] * 2
    titles = [str(table.title) for table in all_tables(_missing_seed())]
    assert [title.rpartition(" ")[2] for title in titles] == ["last-to-first", "first-to-last"]


def test_what_only_a_former_student_was_measured_on_is_not_shown(tmp_path: Path) -> None:
    former = metric_rows("family", "acc", FAMILY, task="arc", student="former")
    rows = [*former, *text_rows("family", FAMILY, student="current")]
    [one] = read_sets([write_results(tmp_path / "results", rows)])
    assert {row.student for row in one.rows} == {"current"}
    assert {chart.task for chart in charts([one], {})} == {"books"}
    assert [str(table.title) for table in all_tables(rows)] == [
        "boomerang family on books, patched last-to-first"
    ]
