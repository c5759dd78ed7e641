"""Where text comes from: files, or a data set that is streamed from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .documents import Messages, document_of, in_pieces, iter_documents

if TYPE_CHECKING:
    from ..distill.sections import Source

# Characters that are tokenised at once: a tokenizer needs hundreds of bytes for each.
LONGEST = 1 << 20


def read_source(source: Source) -> Iterator[tuple[str, str | Messages]]:
    """The documents of a source in order, each with the place that errors name.

    One is read at a time. A text of more than 1,048,576 characters is given in several pieces, as
    `iter_documents` says.

    Raises:
        DataError: A file cannot be read, the data set cannot be streamed, or a document has neither
            `text` nor `messages`.
    """
    if source.dataset is not None:
        yield from _stream(source)
        return
    for path in map(Path, source.files or ()):
        for number, document in enumerate(iter_documents(path, LONGEST), 1):
            yield f"{path}, document {number}", document


def _stream(source: Source) -> Iterator[tuple[str, str | Messages]]:
    datasets = import_datasets()
    place = f"data set {source.described}"
    number = 0
    try:
        records: Any = datasets.load_dataset(
            source.dataset,
            source.name,
            split=source.split or "train",
            revision=source.revision,
            streaming=True,
        )
        for record in records:
            number += 1
            where = f"{place}, row {number}"
            for piece in in_pieces(document_of(record, where), LONGEST):
                yield where, piece
    except DataError:
        raise
    except Exception as error:  # of the network, the hub, or any of many file formats
        reason = " ".join(str(error).split())
        at = f" after {number} rows" if number else ""
        raise DataError(
            f"cannot be streamed{at} ({type(error).__name__}: {reason})",
            where=place,
            fix="see that the hub can be reached and has it, or give `files`",
        ) from error


def import_datasets() -> Any:
    """The `datasets` library, which nothing but the preparation of data needs.

    Raises:
        DataError: It is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            "text is prepared with the library datasets, which is not installed",
            fix="pip install datasets",
        ) from None
    return datasets
