"""`boomerang report`: results as one page, and its figures as files for papers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..checkpoint.output import check_apart, check_writable, write_text
from ..errors import OutputError, ResultsError
from .external import External, read_external
from .page import GENERATOR, Report, page
from .sources import read_sets

_BEGINNING = 1024


def write_report(
    results: Sequence[str | Path],
    out: str | Path,
    *,
    external: Iterable[str | Path] = (),
    figures: str | Path | None = None,
    title: str | None = None,
) -> Path:
    """Write a page about one or several sets of results.

    Args:
        results: Directories that `boomerang evaluate` wrote, or their `results.jsonl`.
        out: The HTML file; an earlier report is replaced, any other file is not.
        external: CSV files of other models' measurements, as `read_external` reads them.
        figures: A directory for every figure as PNG and SVG; by default none.
        title: The page's heading; by default after the teacher.

    Returns:
        `out`.

    Raises:
        ResultsError: Results or measurements cannot be read, or are not what they should be.
        OutputError: `out` is a file of another kind; `out` or `figures` is, holds or lies inside
            the teacher or the student, or cannot be written.
    """
    out = Path(out)
    _check_replaceable(out)
    sets = read_sets(results)
    for family in filter(None, (each.provenance for each in sets)):
        for target in (out, Path(figures or out)):
            check_apart(target, family.teacher.id, family.student.id)
    report = Report.of(sets, _read_external(external), title)
    text = page(report)
    if figures is not None:
        check_writable(Path(figures))
    try:
        write_text(out, text)
    except UnicodeEncodeError as error:
        raise ResultsError(f"a name is not Unicode text ({error.reason})") from None
    if figures is not None:
        # matplotlib takes a second to import.
        from .figure import save_chart

        for name, chart in zip(_names(report), report.charts, strict=True):
            save_chart(chart, Path(figures) / name)
    return out


def _read_external(paths: Iterable[str | Path]) -> dict[str, Sequence[External]]:
    found: dict[str, Sequence[External]] = {}
    for path in paths:
        name = Path(path).stem
        found[str(path) if name in found else name] = read_external(path)
    return found


def _check_replaceable(out: Path) -> None:
    if out.is_dir():
        raise OutputError("is a directory", where=out, fix="name a file, such as report.html")
    try:
        with out.open("rb") as file:
            beginning = file.read(_BEGINNING)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot be read ({error.strerror})", where=out) from None
    if f'content="{GENERATOR} '.encode() not in beginning:
        raise OutputError(
            "is there already and is no report", where=out, fix="name another file or remove it"
        )


def _names(report: Report) -> list[str]:
    """File names for the figures: task and metric, as far as file systems take them."""
    names: list[str] = []
    for chart in report.charts:
        words = f"{chart.task} {chart.metric}{' family' * chart.close_up}"
        name = re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-.")[:100]
        names.append(name if name not in names else f"{name}-{len(names)}")
    return names
