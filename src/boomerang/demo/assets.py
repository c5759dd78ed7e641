"""The embedded teacher and text: what `boomerang demo` runs on when it is given nothing else.

The texts are whole books in the public domain, listed in `assets/books.json`. gzip rather than a
denser format, because every Python has it.
"""

from __future__ import annotations

import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

_ASSETS = Path(str(files("boomerang.demo") / "assets"))
_SEPARATOR = "\n\n\n"


def teacher_path() -> Path:
    """The directory of the embedded teacher, a plain transformers checkpoint with its tokenizer.

    Qwen3 architecture, 16 layers, width 64, vocabulary 512; see `README.md` in the directory.
    """
    return _ASSETS / "teacher"


def training_documents() -> list[str]:
    """The 16 books to distil on, about 4.9 million characters; the teacher was trained on them."""
    return _documents("train")


def heldout_documents() -> list[str]:
    """The 2 books to measure on, about 0.5 million characters; unknown to the teacher."""
    return _documents("heldout")


def books() -> list[dict[str, Any]]:
    """The shipped books, those to distil on before those to measure on, in the order of the text.

    Returns:
        For each book `title`, `author`, `year`, `characters` and `split`, which is `"train"` or
        `"heldout"`.
    """
    listing = json.loads((_ASSETS / "books.json").read_text(encoding="utf-8"))
    shipped: list[dict[str, Any]] = listing["shipped"]
    return shipped


def _documents(split: str) -> list[str]:
    text = gzip.decompress((_ASSETS / f"{split}.txt.gz").read_bytes()).decode()
    return text.split(_SEPARATOR)
