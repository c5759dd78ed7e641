"""Other models' results from a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from boomerang.errors import ResultsError
from boomerang.report.external import External, read_external

HEAD = "name,parameters,task,metric,value"


def _write(directory: Path, *lines: str) -> Path:
    path = directory / "others.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_columns_come_in_any_order_and_some_may_be_empty(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "value,task,metric,name,parameters,stderr,layers",
        '0.5,arc_easy,"exact_match,strict",Pythia 2.8B,2775208960,0.01,32',
        "9,books,perplexity,<b>small</b>,7,,",
    )
    assert read_external(path) == [
        External("Pythia 2.8B", 2775208960, "arc_easy", "exact_match,strict", 0.5, 0.01, None, 32),
        External("<b>small</b>", 7, "books", "perplexity", 9.0, None, None, None),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAD], "no lines below its columns"),
        (
            ["name,task,metric,value", "a,b,c,1"],
            'line 2: .*"parameters" is missing; the columns are',
        ),
        ([HEAD + ",error", "a,1,b,c,1,0.1"], "line 2: column \"error\" is '0.1': unexpected"),
        ([HEAD + ",value", "a,1,b,c,1,1"], "names a column twice"),
        ([HEAD, "a,1,b,c"], "line 2: has another number of cells"),
        ([HEAD, "a,1,b,c,1,2"], "line 2: has another number of cells"),
        (
            [HEAD, "a,1,b,c,0.5", "a,2.7B,b,c,1"],
            "line 3: .*'2.7B': input should be a valid int",
        ),
        ([HEAD, "a,1,b,c,many"], "'many': input should be a valid number"),
        ([HEAD, "a,1,b,c,nan"], '"value" is .nan.: input should be a finite number'),
        ([HEAD, "a,1,b,c,"], "\"value\" is ''"),
        ([HEAD, ",1,b,c,1"], "\"name\" is ''"),
        ([HEAD, "a,0,b,c,1"], '"parameters" is .0.: input should be greater'),
        ([HEAD + ",stderr", "a,1,b,c,1,-0.1"], '"stderr" is .-0.1.: input should be greater'),
        ([HEAD, f"a,{10**400},b,c,1"], '"parameters" is .1.*: input should be less'),
        ([HEAD, "a,1,b,c,1e200"], '"value" is .1e200.: input should be less'),
        ([HEAD, "a,1,b,c,1", "d,1,b,c,1", "a,1,b,c,2"], "has c on b of 'a' twice"),
        ([HEAD, '"a,1,b,c,1'], "is not CSV"),
    ],
)
def test_a_broken_file_is_refused_by_its_place(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ResultsError, match=message):
        read_external(_write(tmp_path, *lines))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "others.csv"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match="is not CSV in UTF-8"):
        read_external(path)
    with pytest.raises(ResultsError, match="cannot be read"):
        read_external(tmp_path / "none.csv")
