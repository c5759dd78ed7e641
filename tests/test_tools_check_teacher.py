"""The gate of the embedded teacher: what passes it and what does not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from boomerang.evaluate.results import Row

# Nothing here runs a model: a family of 4 to 6 layers, its naive pruning and the paired errors.
FAMILY = {4: 20.0, 5: 19.0, 6: 16.0}
NAIVE = {4: 60.0, 5: 40.0, 6: 16.0}


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    monkeypatch.delitem(sys.modules, "check_teacher", raising=False)
    import check_teacher

    return check_teacher


def rows(
    family: dict[int, float] = FAMILY, naive: dict[int, float] = NAIVE, noise: float = 0.01
) -> list[Row]:
    def row(series: str, size: int, metric: str, value: float, stderr: float | None) -> Row:
        return Row(
            member=tuple(range(size - 4)), patch=size - 4, order="last-to-first", num_layers=size,
            parameters=size, bytes=size, task="books", metric=metric, value=value, stderr=stderr,
            items=9, teacher="t", student="s", series=series,
        )  # fmt: skip

    made = []
    for series, values in (("family", family), ("naive", naive)):
        made += [row(series, size, "perplexity", value, 0.1) for size, value in values.items()]
        made += [
            row(series, size, "bits_per_byte", value / 10, None) for size, value in values.items()
        ]
    made += [
        row("family", size, "perplexity_difference", family[size] - family[size - 1], noise)
        for size in (5, 6)
    ]
    return made


def failed(tool: ModuleType, *args: object, **kwargs: object) -> list[str]:
    return [check.what for check in tool.checks(rows(*args, **kwargs)) if not check.passed]


def test_a_deep_teacher_passes(tool: ModuleType) -> None:
    assert failed(tool) == []


@pytest.mark.parametrize(
    ("family", "naive", "what"),
    [
        ({}, {4: 39.9}, "naive student / teacher"),
        ({4: 18.3, 5: 18.0}, {}, "distilled student / teacher"),
        ({4: 31.0}, {}, "distilled / naive student"),
        ({5: 20.5}, {}, "5 layers against 4"),
        ({}, {5: 21.9}, "lost at 5 layers / lost by naive pruning"),
        ({5: 15.9}, {}, "best of the family / teacher"),
    ],
)
def test_each_line_can_fail(
    tool: ModuleType, family: dict[int, float], naive: dict[int, float], what: str
) -> None:
    assert what in failed(tool, FAMILY | family, NAIVE | naive)


def test_a_rise_within_two_paired_standard_errors_is_none(tool: ModuleType) -> None:
    assert failed(tool, FAMILY | {5: 20.5}, noise=0.3) == []


def test_the_report_shows_curve_and_verdicts(tool: ModuleType) -> None:
    made = rows()
    text = "\n".join(tool.report(made, list(tool.checks(made))))
    assert "| perplexity | 20.00 | 19.00 | 16.00 |" in text
    assert "| naive student / teacher | 3.750 | at least 2.5 | pass |" in text
