"""`boomerang report`: results as one page, and its figures as files for papers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..checkpoint.output import check_apart, check_writable, write_text
from ..errors import OutputError, ResultsError
from .charts import Chart, charts
from .external import External, read_external
from .figure import save_figure
from .page import GENERATOR, page
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
    """The path of a page about one or several sets of results, which it writes.

    Args:
        results: Directories that `boomerang evaluate` wrote, or their `results.jsonl`.
        out: The HTML file; an earlier report is replaced, any other file is not.
        external: CSV files of other models' measurements, as `read_external` reads them.
        figures: A directory for every figure as PNG and SVG; by default none.
        title: The page's heading; by default after the teacher.

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
    others: dict[str, Sequence[External]] = {}
    for path in external:
        name = Path(path).stem
        others[str(path) if name in others else name] = read_external(path)
    found = charts(sets, others)
    text = page(found, sets, others, title)
    if figures is not None:
        check_writable(Path(figures))
    try:
        write_text(out, text)
    except UnicodeEncodeError as error:
        raise ResultsError(f"a name is not Unicode text ({error.reason})") from None
    if figures is not None:
        for name, chart in zip(_names(found), found, strict=True):
            save_figure(chart, Path(figures) / name)
    return out


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
        fix = "name another file or remove it"
        raise OutputError("is there already and is no report", where=out, fix=fix)


def _names(found: Sequence[Chart]) -> list[str]:
    """File names for the figures: task and metric, as far as file systems take them."""
    names: list[str] = []
    for chart in found:
        words = f"{chart.task} {chart.metric}{' family' * chart.close_up}"
        name = re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-.")[:100]
        names.append(name if name not in names else f"{name}-{len(names)}")
    return names
