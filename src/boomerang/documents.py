"""Text files and the documents in them, the same for training and for measuring."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .errors import DataError

SEPARATOR = "<|endoftext|>"
"""Between the documents of one file; a file without it is one document."""


def read_documents(paths: Iterable[str | Path]) -> list[str]:
    """The documents of text files.

    A file is one document, or several with `<|endoftext|>` between them. Line breaks around a
    document are dropped, and so are empty documents.

    Args:
        paths: UTF-8 text files.

    Raises:
        DataError: A file cannot be read or is not UTF-8, or there is no text in all of them.
    """
    documents: list[str] = []
    files = [Path(path) for path in paths]
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=path) from None
        except UnicodeDecodeError as error:
            raise DataError(f"is not UTF-8 text (byte {error.start})", where=path) from None
        parts = (part.strip("\r\n") for part in text.split(SEPARATOR))
        documents.extend(part for part in parts if part)
    if not documents:
        names = ", ".join(str(path) for path in files)
        raise DataError("there is no text in it", where=names or None)
    return documents
