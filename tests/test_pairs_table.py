"""The tables of what is supported, in docs/pairs.md."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import published
import test_pairs_hub
import test_verify
from boomerang.checkpoint.known_pairs import KNOWN_PAIRS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.delitem(sys.modules, "support_table", raising=False)
    import support_table

    return support_table


def test_the_page_says_what_is_tested(tool: ModuleType) -> None:
    text = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")
    assert tool.in_page(text) == text, "run: python tools/support_table.py"


def cases(test: Any) -> Any:
    [mark] = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return mark.args[1]


def test_every_row_is_a_case_of_a_test(tool: ModuleType) -> None:
    students = cases(test_pairs_hub.test_every_published_student_by_name)
    architectures = cases(test_verify.test_every_member_along_both_orders_passes)
    rows = [line for line in tool.tables().splitlines() if line.startswith("| `")]
    names = {row.split("`")[1] for row in rows}
    assert names == {each.name for each in students} | set(architectures)
    assert len(rows) == len(names)
    assert {pair.like for pair in published.PUBLISHED} == set(published.PAIRS)


def test_known_pairs_are_published_ones() -> None:
    ours = {(each.teacher, each.name) for each in published.PUBLISHED}
    assert {(known.teacher, known.student) for known in KNOWN_PAIRS} <= ours


def test_marks_are_needed(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match="lacks"):
        tool.in_page("no marks")
