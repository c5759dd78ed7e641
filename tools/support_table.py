"""The tables of what is supported in docs/pairs.md, from the very lists that the tests run over.

    python tools/support_table.py

writes them between their marks. A test fails when they differ from what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from boomerang.checkpoint.known_pairs import KNOWN_PAIRS
from boomerang.models.config import paper_order

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "pairs.md"
BEGIN = "<!-- tools/support_table.py writes from here -->"
END = "<!-- to here -->"


def tables() -> str:
    """Both tables: published pairs, and architectures."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        published, architectures = import_module("published"), import_module("tiny_models")
    finally:
        sys.path.pop(0)
    return f"{pair_table(published)}\n\n{architecture_table(architectures, published)}"


def pair_table(published: Any) -> str:
    """A row for each published student."""
    known = {pair.student: pair for pair in KNOWN_PAIRS}
    rows = []
    for student in published.PUBLISHED:
        like = published.PAIRS[student.like]
        where = "its `student_config.json`" if student.name not in known else "known here"
        order = paper_order({"model_type": like.architecture})
        teacher = student.teacher or "the one its card names"
        rows.append((f"`{student.name}`", _code(teacher), like.architecture, where, order))
    heads = ("published student", "teacher", "architecture", "kept layers from", "default order")
    return _table(heads, rows)


def architecture_table(architectures: Any, published: Any) -> str:
    """A row for each architecture whose members are built, loaded and compared."""
    counts = {
        name: sum(
            published.PAIRS[student.like].architecture == name for student in published.PUBLISHED
        )
        for name in architectures.ARCHITECTURES
    }
    rows = [
        (
            f"`{name}`",
            paper_order({"model_type": name}),
            "tied" if architectures.tiny_config(name).tie_word_embeddings else "apart",
            str(counts[name] or ""),
        )
        for name in sorted(architectures.ARCHITECTURES)
    ]
    heads = ("architecture", "default order", "embedding and head", "published students above")
    return _table(heads, rows)


def in_page(text: str) -> str:
    """The page's text with the tables as they should be.

    Raises:
        SystemExit: The marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/pairs.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def _code(text: str) -> str:
    return f"`{text}`" if "/" in text else text


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(in_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
