"""Documents in files, the same for training and for measuring.

Files are read piece by piece, so that texts larger than memory can be gone through.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError

SEPARATOR = "<|endoftext|>"
"""Between the documents of one text file; a file without it is one document."""

Messages = list[dict[str, Any]]
"""A conversation: dicts with `role` and, as a rule, `content`."""

_BLOCK = 1 << 20
_PARQUET_ROWS = 256


def join_documents(documents: Iterable[str]) -> str:
    """Documents as the text of one file, from which `read_documents` gives them again.

    Args:
        documents: Texts without a separator of their own, each on lines of its own.
    """
    return f"\n{SEPARATOR}\n".join(documents)


def read_documents(paths: Iterable[str | Path]) -> list[str]:
    """The documents of files, as `iter_documents` gives them, all at once.

    Args:
        paths: Text, `.jsonl` or `.parquet` files.

    Raises:
        DataError: A file cannot be read or holds conversations, or there is no text in all of them.
    """
    files = [Path(path) for path in paths]
    documents: list[str] = []
    for path in files:
        for document in iter_documents(path):
            if not isinstance(document, str):
                raise DataError("holds conversations where plain text is needed", where=path)
            documents.append(document)
    if not documents:
        names = ", ".join(str(path) for path in files)
        raise DataError("there is no text in it", where=names or None)
    return documents


def iter_documents(path: Path, longest: int | None = None) -> Iterator[str | Messages]:
    """The documents of a file, one after the other.

    A text file is one document, or several with `<|endoftext|>` between them. Line breaks around a
    document are dropped, and so are empty documents. A `.jsonl` file has a JSON object on each
    line, a `.parquet` file a row, for each document: with a string `text`, or with a list
    `messages`, a conversation.

    Args:
        path: The file, UTF-8 if it is text.
        longest: A text of more characters is given in pieces of about this length, cut at a line
            break if there is one, as if each were a document; None for no limit.

    Raises:
        DataError: It cannot be read, is not UTF-8, or a line or row has neither `text` nor
            `messages`.
    """
    readers = {".jsonl": _json_lines, ".parquet": _parquet}
    read = readers.get(path.suffix.lower())
    try:
        if read is None:
            yield from _separated(path, longest)
            return
        for where, record in read(path):
            document = document_of(record, where)
            yield from in_pieces(document, longest)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None


def document_of(record: Any, where: object) -> str | Messages:
    """The text or the conversation in a record of a dataset.

    Args:
        record: A dict with `text` or `messages`.
        where: The place that errors name.

    Raises:
        DataError: It has neither, or both.
    """
    found = record if isinstance(record, dict) else {}
    text, messages = found.get("text"), found.get("messages")
    if isinstance(text, str) and messages is None:
        return text
    if text is None and isinstance(messages, list) and messages:
        if all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
            # Tables fill in what a message does not have.
            return [{k: v for k, v in m.items() if v is not None} for m in messages]
        raise DataError("`messages` holds something other than messages with a `role`", where=where)
    has = f"it has {', '.join(map(str, found))}" if found else "it has no keys"
    raise DataError(
        f"a document is given by either a string `text` or a list `messages`; {has}", where=where
    )


def in_pieces(document: str | Messages, longest: int | None) -> Iterator[str | Messages]:
    """A document, without line breaks around it, as at most `longest` characters at a time.

    Args:
        document: Of a conversation there is one piece, of a text without content none.
        longest: None for no limit.
    """
    if isinstance(document, list):
        yield document
        return
    while longest is not None and len(document) > longest:
        cut = _cut(document, longest)
        yield from in_pieces(document[:cut], None)
        document = document[cut:]
    document = document.strip("\r\n")
    if document:
        yield document


def _separated(path: Path, longest: int | None) -> Iterator[str | Messages]:
    rest = ""
    for block in _blocks(path):
        *complete, rest = (rest + block).split(SEPARATOR)
        for document in complete:
            yield from in_pieces(document, longest)
        # What may be the beginning of a separator stays behind.
        while longest is not None and len(rest) > longest + len(SEPARATOR):
            cut = _cut(rest, longest)
            yield from in_pieces(rest[:cut], None)
            rest = rest[cut:]
    yield from in_pieces(rest, longest)


def _cut(text: str, longest: int) -> int:
    return text.rfind("\n", longest // 2, longest) + 1 or longest


def _blocks(path: Path) -> Iterator[str]:
    """A text file in blocks, with all line breaks made alike."""
    utf8 = codecs.getincrementaldecoder("utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    at = 0
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            waiting = len(utf8.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                byte = at - waiting + error.start
                raise DataError(f"is not UTF-8 text (byte {byte})", where=path) from None
            if text:
                yield text
            if not block:
                return
            at += len(block)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if line.strip():
                try:
                    yield where, json.loads(line)
                except ValueError as error:
                    reason = str(error).partition("\n")[0]
                    raise DataError(f"is no JSON ({reason})", where=where) from None


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            "parquet files need pyarrow", where=path, fix="pip install pyarrow"
        ) from None

    try:
        with path.open("rb") as raw, ParquetFile(raw) as file:
            wanted = [name for name in ("text", "messages") if name in file.schema_arrow.names]
            if not wanted:
                # Named as for any other document that has neither.
                document_of(dict.fromkeys(file.schema_arrow.names), path)
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", record
    except ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"is no readable parquet file ({reason})", where=path) from None
