"""`results.jsonl`: what is written is read back, and what is broken is named."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from boomerang.errors import ResultsError
from boomerang.evaluate.results import Row, append_results, current, read_results

FIELDS: dict[str, Any] = {
    "member": [1, 2],
    "patch": 2,
    "order": "last-to-first",
    "num_layers": 5,
    "parameters": 1000,
    "bytes": 4000,
    "task": "books",
    "metric": "perplexity",
    "value": 12.5,
    "stderr": 0.25,
    "items": 40,
    "teacher": "aa",
    "student": "bb",
    "series": "family",
}


def _row(**changes: Any) -> Row:
    fields = FIELDS | changes
    return Row(**(fields | {"member": tuple(fields["member"])}))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [_row(), _row(value=1 / 3, stderr=None, order=None, member=[])]
    append_results(path, rows[:1])
    append_results(path, rows[1:])
    assert read_results(path) == rows
    assert read_results(tmp_path) == rows
    assert json.loads(path.read_text().splitlines()[0]) == FIELDS
    assert list(json.loads(path.read_text().splitlines()[0])) == list(FIELDS)


@pytest.mark.parametrize("kept", [1, 30, -2, -1])
def test_a_torn_last_line_is_passed_over_and_mended(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "results.jsonl"
    append_results(path, [_row(task="first")])
    whole = path.read_bytes()
    append_results(path, [_row(task="s\u00e9cond")])
    torn = path.read_bytes()[len(whole) :][:kept]
    path.write_bytes(whole + torn)
    # Only the line break is missing at -1: nothing of the row is lost.
    expected = ["first", "s\u00e9cond"] if kept == -1 else ["first"]
    assert [row.task for row in read_results(path)] == expected
    append_results(path, [_row(task="third")])
    assert [row.task for row in read_results(path)] == [*expected, "third"]


def test_appending_reads_the_same_few_bytes_of_a_short_and_of_a_long_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    class Counting(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            read.append(super().readinto(buffer))
            return read[-1]

    monkeypatch.setattr(Path, "open", lambda path, mode: io.BufferedRandom(Counting(path, "a+")))
    append_results(tmp_path / "short", [_row()] * 1000)
    append_results(tmp_path / "long", [_row()] * 20_000)
    for name in ("short", "long"):
        read.clear()
        append_results(tmp_path / name, [_row()])
        assert 0 < sum(read) < 150_000


def test_a_broken_line_before_the_last_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(FIELDS) + "\n" + '{"member": [\n' + json.dumps(FIELDS) + "\n")
    with pytest.raises(ResultsError, match=r"results\.jsonl line 2: is not JSON"):
        read_results(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": math.nan}, 'field "value" is not a finite number'),
        ({"stderr": math.inf}, 'field "stderr" is not a finite number'),
        ({"stderr": -0.1}, 'field "stderr" is -0.1'),
        ({"value": "12.5"}, "field \"value\" is '12.5'"),
        ({"member": [0, "1"]}, "field \"member.1\" is '1'"),
        ({"parameters": 0}, 'field "parameters" is 0'),
        ({"colour": "red"}, 'field "colour" is not known'),
    ],
)
def test_a_row_with_a_bad_field_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(FIELDS) + "\n\n" + json.dumps(FIELDS | changes) + "\n")
    with pytest.raises(ResultsError) as caught:
        read_results(path)
    assert str(caught.value).startswith(f"{path} line 3: {message}")


@pytest.mark.parametrize("field", list(FIELDS))
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({k: v for k, v in FIELDS.items() if k != field}) + "\n")
    with pytest.raises(ResultsError, match=rf'line 1: field "{field}" is missing'):
        read_results(path)


def test_lines_that_are_no_rows_and_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("[1, 2]\n")
    with pytest.raises(ResultsError, match="line 1: is not a JSON object"):
        read_results(path)
    with pytest.raises(ResultsError, match="cannot be read"):
        read_results(tmp_path / "gone.jsonl")


def test_nan_cannot_become_a_row() -> None:
    with pytest.raises(ValidationError):
        _row(value=math.nan)


def test_current_rows_are_those_of_the_last_student_measured() -> None:
    naive = _row(series="naive", student="cc")
    old, new = _row(student="bb"), _row(student="dd", value=11.0)
    again = _row(student="dd", value=10.0)
    assert current([old, naive, new]) == [naive, new]
    assert current([new, naive, again]) == [again, naive]
    assert current([_row(teacher="x"), _row(teacher="y", student="z")]) == [
        _row(teacher="x"),
        _row(teacher="y", student="z"),
    ]
