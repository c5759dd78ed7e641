"""The page: complete without its script, closed to markup in results, plain on mistakes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from boomerang.errors import OutputError, ResultsError
from boomerang.evaluate.results import Row
from boomerang.layers import LayerMap
from boomerang.report.write import write_report
from result_rows import FAMILY, NAIVE, metric_rows, text_rows, write_results

EVIL = "</script>\x0b{{ 7 * 7 }}<script>alert(1)</script><img src=x onerror=alert(1)>\"'&--><!--"


class _Page(HTMLParser):
    """The elements of a page, the text of each, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    @property
    def open(self) -> list[str]:
        return self._open


def _report(directory: Path, rows: list[Row], **options: object) -> str:
    results = write_results(directory / "results", rows)
    out = write_report([results], directory / "report.html", **options)  # type: ignore[arg-type]
    return out.read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = _report(tmp_path, text_rows("family", FAMILY) + text_rows("naive", NAIVE))
    page = _Page(text)
    assert page.open == []
    for tag, attributes in page.elements:
        assert "src" not in attributes and "style" not in attributes
        href = attributes.get("href") or "data:,"
        assert href == "data:," or (tag == "use" and href.startswith("#"))
        assert not [name for name in attributes if name.startswith("on")], tag
    assert (
        "url(" not in text
        and "@import" not in text
        and "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    )
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") is not None)
    assert policy is not None and policy.startswith("default-src 'none'; style-src 'sha256-")
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy


def test_figures_and_numbers_are_there_without_the_script(tmp_path: Path) -> None:
    text = _report(tmp_path, text_rows("family", FAMILY) + text_rows("naive", NAIVE))
    drawings = [
        ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="chart".*?</svg>', text)
    ]
    # Perplexity wide and narrow and its family alone, bits per byte and its family alone.
    assert len(drawings) == 5
    for drawing in drawings:
        units = drawing.findall("g[@data-unit]")
        assert [unit.get("hidden") for unit in units] == [None, "", ""]
        for unit in units:
            lines = unit.findall("g[@data-line]")
            assert [len(line.findall("use")) for line in lines] in ([4, 4], [4])
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert len(figures) == 4 and all("lower is better" in figure for figure in figures)
    assert drawings[0].get("aria-label") == (
        "Perplexity on books against size, lower is better. boomerang family: 20.00 with 5 layers "
        "to 18.00 with 8; naive pruning: 60.00 with 5 layers to 18.00 with 8."
    )
    noscript = text[text.index("<noscript>") : text.index("</noscript>")]
    assert noscript.count("<code>boomerang build TEACHER STUDENT") == 4
    cells = re.findall(r"<td[^>]*>19.90 <small>± 0.50</small>(.*?)</td>", text)
    assert len(cells) == 1 and "≈" in cells[0]


def test_nothing_in_the_results_becomes_markup(tmp_path: Path) -> None:
    rows = metric_rows("family", "perplexity", FAMILY, student=EVIL)
    rows += metric_rows(EVIL, "perplexity", NAIVE)
    rows += metric_rows("family", EVIL, FAMILY, student=EVIL)
    names = {"task": EVIL, "order": EVIL, "teacher": EVIL}
    rows = [row.model_copy(update=names) for row in rows]
    csv = tmp_path / f"{'x' * 3}<b>.csv"
    quoted = '"' + EVIL.replace('"', '""') + '"'
    csv.write_text(
        f"name,parameters,task,metric,value\n{quoted},1000000,{quoted},perplexity,30\n"
        f"{quoted},1000000,{quoted},{quoted},30\n"
    )
    record = {
        "schema_version": 1, "name": EVIL,
        "teacher": {"id": EVIL, "revision": None, "hash": EVIL},
        "student": {"id": EVIL, "revision": EVIL, "hash": EVIL},
        "num_teacher_layers": 8, "kept_layers": [0, 2, 4, 6, 7], "order": EVIL, "context": 64,
        "dtype": EVIL, "built": [], "recipe": EVIL, "tools": {EVIL: EVIL}, "measured": EVIL,
    }  # fmt: skip
    results = write_results(tmp_path / "results", rows)
    (results / "family.json").write_text(json.dumps(record))
    (results / "evaluation.json").write_text(json.dumps({EVIL: EVIL, "window": 8}))
    text = _report(tmp_path, [], external=[csv], title=EVIL, figures=tmp_path / "figures")
    page = _Page(text)
    assert page.open == []
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 2 and "img" not in tags
    assert "alert(1)" in text and "<img" not in text and "<!--" not in text
    data = next(body for body in page.texts["script"] if body.startswith("{"))
    assert EVIL in json.loads(data)["choices"][0]["members"][0]["quality"]
    assert len(list((tmp_path / "figures").glob("*.svg"))) == len(json.loads(data)["charts"])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    text = _report(tmp_path, text_rows("family", FAMILY))
    assert "There is no family.json beside the results" in text
    only = _report(tmp_path / "b", text_rows("naive", NAIVE))
    assert "No member of a family was measured." in only
    (tmp_path / "o.csv").write_text("name,parameters,task,metric,value\nx,1,books,bleu,1\n")
    assert "evaluation.json is not there or damaged" in text
    (tmp_path / "results" / "evaluation.json").write_text("{")
    assert "evaluation.json is not there or damaged" in _report(tmp_path, [])
    (tmp_path / "results" / "evaluation.json").write_text("{}")
    assert "evaluation.json is not there or damaged" not in _report(tmp_path, [])
    again = _report(tmp_path, [], external=[tmp_path / "o.csv"])
    assert "Not shown, since no member was measured so: bleu on books." in again


def test_a_large_report_stays_small(tmp_path: Path) -> None:
    layers = LayerMap.every(2, 36)
    values = [0.3 + k / 100 for k in range(layers.max_patch + 1)]
    rows = [
        row
        for task in range(10)
        for series in ("family", "naive", "random", "shortgpt", "laco")
        for row in metric_rows(series, "acc", values, layers, task=f"task{task}")
    ]
    assert len(_report(tmp_path, rows).encode()) < 1_000_000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"member": []}', 'results.jsonl line 1: field "patch" is missing'),
        ("[1]", "line 1: is not a JSON object"),
        ("{} {}\n{}", "line 1: is not JSON"),
        ("", "there are no results"),
    ],
)
def test_broken_results_are_refused_in_a_line(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(ResultsError, match=message):
        write_report([tmp_path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    row = text_rows("family", FAMILY)[0].model_dump() | {"value": float("nan")}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ResultsError, match='field "value" is not a finite number'):
        write_report([tmp_path], tmp_path / "report.html")


def test_values_beyond_all_measure_are_left_out_and_named(tmp_path: Path) -> None:
    rows = text_rows("family", FAMILY)
    collapsed = [row.model_copy(update={"value": 1e200}) for row in text_rows("naive", NAIVE)]
    text = _report(tmp_path, rows + collapsed, figures=tmp_path / "figures")
    assert "Values beyond 1e+100 are not shown: " in text
    assert f"perplexity on {collapsed[0].task}" in text
    with pytest.raises(ResultsError, match=r"every value is beyond 1e\+100"):
        _report(tmp_path / "b", collapsed)
    differences = [row for row in rows if row.metric.endswith("_difference")]
    assert differences
    with pytest.raises(ResultsError, match="there are no results"):
        _report(tmp_path / "c", differences)
    many = rows[0].model_dump() | {"parameters": 10**400}
    (tmp_path / "results" / "results.jsonl").write_text(json.dumps(many) + "\n")
    with pytest.raises(ResultsError, match='field "parameters"'):
        write_report([tmp_path / "results"], tmp_path / "report.html")


def test_sets_measured_differently_are_told(tmp_path: Path) -> None:
    places = []
    for name, shots in (("one", 0), ("two", 5), ("three", 0)):
        place = write_results(tmp_path / name, text_rows("family", FAMILY))
        settings = {"content": name, "num_fewshot": shots, "limit": None}
        (place / "evaluation.json").write_text(json.dumps({"tasks": {"books": settings}}))
        places.append(place)
    text = write_report(places, tmp_path / "report.html").read_text(encoding="utf-8")
    told = "books was measured with other settings than in one: num fewshot."
    assert text.count(told) == 1
    assert text.index(told) > text.index("<h3>two</h3>")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    rows = [row.model_copy(update={"task": "\ud800"}) for row in text_rows("family", FAMILY)]
    results = tmp_path / "results"
    results.mkdir()
    lines = (json.dumps(row.model_dump()) + "\n" for row in rows)
    (results / "results.jsonl").write_text("".join(lines))
    with pytest.raises(ResultsError, match="a name is not Unicode text"):
        write_report([results], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", text_rows("family", FAMILY))
    out = tmp_path / "new" / "report.html"
    first = write_report([results], out).read_bytes()
    assert write_report([results], out).read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    out.write_text("<html>my own page</html>")
    with pytest.raises(OutputError, match="is there already and is no report"):
        write_report([results], out)
    with pytest.raises(OutputError, match="is a directory"):
        write_report([results], tmp_path)
    assert out.read_text() == "<html>my own page</html>"


def test_figures_that_cannot_be_written_are_told_before_the_page(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", text_rows("family", FAMILY))
    (tmp_path / "file").touch()
    for figures in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match=r"file.*: cannot be written"):
            write_report([results], tmp_path / "report.html", figures=figures)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "results"]


def test_sets_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    first = write_results(tmp_path / "one" / "results", text_rows("family", FAMILY))
    second = write_results(tmp_path / "two" / "results", text_rows("family", NAIVE, student="x"))
    text = write_report([first, second], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "boomerang family · one/results" in text and "boomerang family · two/results" in text
    assert text.count('<option value="') == 2
    with pytest.raises(ResultsError, match="is named twice"):
        write_report([first, first], tmp_path / "report.html")


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "boomerang", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_and_refuses_in_a_line(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", metric_rows("family", "acc", FAMILY))
    out = tmp_path / "report.html"
    done = _run(results, out, "--title", "Mine", "--figures", tmp_path / "figures")
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    assert "<h1>Mine</h1>" in out.read_text(encoding="utf-8")
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["books-acc.png", "books-acc.svg"]
    for arguments in ([results], [tmp_path / "none", out]):
        done = _run(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("boomerang: ")
