"""The figure and the table, from rows alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from boomerang.errors import OutputError, ResultsError
from boomerang.evaluate.results import Row
from boomerang.report import figure as figure_module
from boomerang.report.charts import one_chart
from boomerang.report.figure import save_figure
from boomerang.report.table import all_tables
from result_rows import FAMILY, NAIVE, RANDOM, text_rows


def _print(rows: list[Row]) -> str:
    out = io.StringIO()
    for table in all_tables(rows):
        Console(width=80, file=out).print(table)
    return out.getvalue()


def test_png_and_svg_show_every_series(tmp_path: Path) -> None:
    rows = text_rows("family", FAMILY) + text_rows("naive", NAIVE) + text_rows("random", RANDOM)
    rows = [row.model_copy(update={"task": "cost in $ and $"}) for row in rows]
    png, svg = save_figure(one_chart(rows), tmp_path / "new" / "curve")
    assert sorted(path.name for path in png.parent.iterdir()) == ["curve.png", "curve.svg"]
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert image.size == (1600, 900)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 22) or []}
    drawn = svg.read_text()
    for colour in ("#0072b2", "#d55e00", "#cc79a7"):
        assert colour in drawn
        assert tuple(bytes.fromhex(colour[1:])) in colours
    # Letters are drawn, so the picture needs no font from outside.
    assert "<text" not in drawn and "font-family" not in drawn


def test_one_set_of_rows_is_one_picture(tmp_path: Path) -> None:
    rows = text_rows("family", FAMILY)
    _, first = save_figure(one_chart(rows), tmp_path / "a")
    _, second = save_figure(one_chart(rows), tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("rows", "scale", "unit"),
    [
        (text_rows("family", FAMILY), "linear", "millions"),
        (text_rows("family", FAMILY) + text_rows("naive", NAIVE), "log", "millions"),
        (text_rows("family", FAMILY, parameters=4_022_468_096), "linear", "billions"),
    ],
)
def test_axes_say_what_they_show(rows: list[Row], scale: str, unit: str) -> None:
    figure = figure_module._paper_figure(one_chart(rows))
    (axes,) = figure.axes
    assert axes.get_yscale() == scale
    assert axes.get_xlabel() == f"Parameters ({unit})"
    assert axes.get_ylabel() == "Perplexity on books (lower is better)"
    named = [text.get_text() for text in axes.texts]
    assert named == ["student\n5 layers", "teacher\n8 layers"]
    figure.draw_without_rendering()
    ticks = [label.get_text() for label in axes.get_yticklabels() if label.get_text()]
    assert len(ticks) >= 3
    bottom, _ = axes.get_ylim()
    assert bottom < 18.0


def test_curves_are_told_apart_only_as_far_as_needed() -> None:
    one = text_rows("naive", NAIVE) + text_rows("family", FAMILY)
    labels = [line.label for line in one_chart(one, metric="perplexity").lines]
    assert labels == ["boomerang family", "naive pruning"]
    two = one + text_rows("family", FAMILY, order="first-to-last")
    labels = [line.label for line in one_chart(two, metric="perplexity").lines]
    assert labels == [
        "boomerang family, last-to-first",
        "boomerang family, first-to-last",
        "naive pruning, last-to-first",
    ]


def test_a_curve_runs_from_student_to_teacher() -> None:
    rows = text_rows("family", FAMILY)
    (line,) = one_chart(list(reversed(rows)), metric="perplexity").lines
    assert [(point.layers, point.name) for point in line.points] == [
        (5, "student"), (6, ""), (7, ""), (8, "teacher"),
    ]  # fmt: skip
    inner = [row for row in rows if row.num_layers in (6, 7)]
    (part,) = one_chart(inner, metric="perplexity").lines
    assert [point.name for point in part.points] == ["", ""]


def test_only_the_last_student_is_shown() -> None:
    rows = text_rows("family", FAMILY, student="old") + text_rows(
        "family", [30.0, 29.0, 28.0, 18.0]
    )
    (line,) = one_chart(rows, metric="perplexity").lines
    assert [point.value for point in line.points] == [30.0, 29.0, 28.0, 18.0]


def test_tasks_and_metrics_that_are_not_there_are_refused(tmp_path: Path) -> None:
    rows = text_rows("family", FAMILY)
    with pytest.raises(ResultsError, match="there are no results"):
        one_chart([])
    with pytest.raises(ResultsError, match="no results for accuracy of books"):
        one_chart(rows, metric="accuracy")
    with pytest.raises(ResultsError, match="name one task"):
        one_chart(rows + text_rows("family", FAMILY, task="stories"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        save_figure(one_chart(rows), tmp_path / "file" / "curve")


def test_the_table_fits_a_terminal_and_marks_noise() -> None:
    text = _print(text_rows("family", FAMILY) + text_rows("naive", NAIVE))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("patch"))
    assert lines[start].endswith("change naive patched")
    assert lines[start + 2 : start + 6] == [
        "0 5 2.50M 9.54 MiB 20.00 ± 0.50 2.000 - 60.00 student",
        "1 6 3.00M 11.4 MiB 19.90 ± 0.50 1.990 -0.10 ± 0.20~ 45.00 2-4",
        "2 7 3.50M 13.4 MiB 18.50 ± 0.50 1.850 -1.40 ± 0.20 30.00 1-4",
        "3 8 4.00M 15.3 MiB 18.00 ± 0.50 1.800 -0.50 ± 0.20 18.00 teacher",
    ]


def test_names_with_markup_are_shown_as_they_are() -> None:
    text = _print(text_rows("family", FAMILY, task="[red]books[/red]"))
    assert "boomerang family on [red]books[/red], patched last-to-first" in text


def test_each_order_has_a_table_with_the_baselines_of_that_order() -> None:
    rows = text_rows("family", FAMILY) + text_rows("naive", NAIVE)
    tables = all_tables(rows + text_rows("family", FAMILY, order="first-to-last"))
    headings = [[str(column.header) for column in table.columns] for table in tables]
    assert ["naive" in heading for heading in headings] == [True, False]
