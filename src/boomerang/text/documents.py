"""Documents in files, the same for training and for measuring.

Files are read piece by piece, so a text may be larger than memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors import DataError

SEPARATOR = "<|endoftext|>"
"""Between the documents of one text file; a file without it is one document."""

Messages = list[dict[str, Any]]
"""A conversation: dicts with `role` and, as a rule, `content`."""

_BLOCK = 1 << 20
_PARQUET_ROWS = 256
_COMPRESSED = (".gz", ".zst")
_CONVERSATIONS = ("messages", "conversations", "conversation")
# Other names of the three roles that chat templates know, ShareGPT's among them.
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai"), "assistant"),
    "system": "system",
}
# Characters at the end of a block that may be the beginning of a number, word or escape of JSON.
_UNDECIDED = 16
_GAP = re.compile(r"[ \t\n\r]*")
_GAP_IN_ARRAY = re.compile(r"[ \t\n\r,]*")


def join_documents(documents: Iterable[str]) -> str:
    """Documents as the text of one file, from which `read_documents` gives them again."""
    return f"\n{SEPARATOR}\n".join(documents)


def read_documents(paths: Iterable[str | Path]) -> list[str]:
    """The documents of files, as `iter_documents` gives them, all at once.

    Raises:
        DataError: A file cannot be read or holds conversations, or no file holds any text.
    """
    files = [Path(path) for path in paths]
    documents: list[str] = []
    for path in files:
        for where, document in iter_documents(path):
            if not isinstance(document, str):
                raise DataError("holds conversations where plain text is needed", where=where)
            documents.append(document)
    if not documents:
        names = ", ".join(str(path) for path in files)
        raise DataError("there is no text in it", where=names or None)
    return documents


def check_file(path: Path) -> None:
    """Refuse what `iter_documents` would not read; a pipe or device is not even opened.

    Raises:
        DataError: The path is not a regular file, or its suffix is not in the list.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from None
    except ValueError:  # a null character
        raise DataError("is not the name of a file", where=repr(str(path))) from None
    if stat.S_ISDIR(mode):
        raise DataError("is a directory", where=path, fix="name the files in it")
    if not stat.S_ISREG(mode):
        raise DataError("is not a regular file", where=path, fix="save the text to a file first")
    if _kind(path) not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(
            "does not say by its suffix what it holds",
            where=path,
            fix=f"rename it to one of {known}; all but .parquet may have .gz or .zst after it",
        )


def iter_documents(path: Path, longest: int | None = None) -> Iterator[tuple[str, str | Messages]]:
    """The documents of a file in order, each with its place in the file, for errors to name.

    docs/distillation.md lists the suffixes and what each holds. Line breaks around a document are
    dropped, and so are empty documents.

    Args:
        path: The file; UTF-8, with or without a byte order mark.
        longest: Longer texts, in characters, are cut into pieces, at a line break if there is one.
            Each piece is then a document. None for no limit.

    Raises:
        DataError: The file or a document in it cannot be read.
    """
    check_file(path)
    read = _READERS[_kind(path)]
    try:
        for where, record in read(path, longest):
            document = record if read is _separated else document_of(record, where)
            for piece in in_pieces(document, longest):
                yield where, piece
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise DataError(f"cannot be read ({reason})", where=path) from None


def document_of(record: Any, where: object) -> str | Messages:
    """The text or the conversation in a record of a data set.

    A record has a string `text` or a list `messages`, `conversations` or `conversation`. Messages
    may have `from` and `value` in place of `role` and `content`. Common names of the roles become
    `user`, `assistant` and `system`; others stay as they are.

    Raises:
        DataError: The record has none of these, or both `text` and `messages`, or text that cannot
            be encoded; the message begins with `where`.
    """
    found = record if isinstance(record, dict) else {}
    text = found.get("text")
    if isinstance(text, str) and found.get("messages") is None:
        _check_encodable(text, where)
        return text
    key = next((key for key in _CONVERSATIONS if found.get(key) is not None), "messages")
    messages = found.get(key)
    if text is None and isinstance(messages, list) and messages:
        conversation = [_message(each) for each in messages]
        if not all(conversation):
            what = f"`{key}` holds something other than messages with a `role`"
            raise DataError(what, where=where)
        _check_encodable(json.dumps(conversation, ensure_ascii=False, default=str), where)
        return conversation
    has = f"it has {', '.join(map(str, found))}" if found else "it has no keys"
    raise DataError(
        f"a document is given by either a string `text` or a list `messages`; {has}", where=where
    )


def _message(given: Any) -> dict[str, Any]:
    """A message as chat templates take it; empty if it does not name a role."""
    if not isinstance(given, dict):
        return {}
    # Tables fill in what a message does not have.
    message = {key: value for key, value in given.items() if value is not None}
    for name, other in (("role", "from"), ("content", "value")):
        if name not in message and other in message:
            message[name] = message.pop(other)
    role = message.get("role")
    if not isinstance(role, str):
        return {}
    return message | {"role": _ROLES.get(role.strip().lower(), role)}


def _check_encodable(text: str, where: object) -> None:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"holds half of a character (the lone surrogate {ascii(text[error.start])[1:-1]})",
            where=where,
            fix="remove it, or put U+FFFD in its place",
        ) from None


def in_pieces(document: str | Messages, longest: int | None) -> Iterator[str | Messages]:
    """A document without line breaks around it, at most `longest` characters at a time.

    A conversation is one piece; a text without content gives none.
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


def _cut(text: str, longest: int) -> int:
    return text.rfind("\n", longest // 2, longest) + 1 or longest


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compressed = suffixes[-1:] and suffixes[-1] in _COMPRESSED
    kind = suffixes[-2:-1] if compressed else suffixes[-1:]
    return "" if not kind or (compressed and kind == [".parquet"]) else kind[0]


def _open_bytes(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """A UTF-8 file without its byte order mark, with all line breaks made alike."""
    with _open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            byte = raw.tell() - len(error.object) + error.start
            raise DataError(f"is not UTF-8 text (byte {byte})", where=path) from None


def _separated(path: Path, longest: int | None) -> Iterator[tuple[str, str]]:
    """The documents of a text file; of a long one, pieces that are cut as `in_pieces` cuts."""
    rest, number = "", 1
    with _open(path) as file:
        while block := file.read(_BLOCK):
            *complete, rest = (rest + block).split(SEPARATOR)
            for document in complete:
                yield f"{path}, document {number}", document
                number += 1
            # What may be the beginning of a separator stays behind.
            while longest is not None and len(rest) > longest + len(SEPARATOR):
                cut = _cut(rest, longest)
                yield f"{path}, document {number}", rest[:cut]
                rest = rest[cut:]
    yield f"{path}, document {number}", rest


def _json(path: Path, _: object = None) -> Iterator[tuple[str, Any]]:
    """The values of a JSON file: those of its array, or one after the other, as lines hold them."""
    decode = json.JSONDecoder().raw_decode
    text, at, line = "", 0, 1
    in_array: bool | None = None
    closed = False
    with _open(path) as file:
        while True:
            gap = _GAP_IN_ARRAY if in_array and not closed else _GAP
            found = gap.match(text, at)
            assert found is not None
            line, at = line + text.count("\n", at, found.end()), found.end()
            where = f"{path}, line {line}"
            if at == len(text):
                text, at = file.read(_BLOCK), 0
                if text:
                    continue
                if in_array and not closed:
                    raise DataError("is not JSON (it ends inside the array)", where=where)
                return
            if closed:
                raise DataError("is not JSON (something follows the array)", where=where)
            if in_array is None and text[at] == "[":
                in_array, at = True, at + 1
                continue
            in_array = bool(in_array)
            if in_array and text[at] == "]":
                closed, at = True, at + 1
                continue
            try:
                value, end = decode(text, at)
            except json.JSONDecodeError as error:
                # Only what is cut at the end of the block may become JSON with the next one. Twice
                # as much each time: long values are not retried too often.
                cut = error.pos >= len(text) - _UNDECIDED or error.msg.startswith("Unterminated")
                more = file.read(max(_BLOCK, len(text) - at)) if cut else ""
                if not more:
                    raise DataError(f"is not JSON ({error.msg})", where=where) from None
                text, at = text[at:] + more, 0
                continue
            except RecursionError:
                raise DataError("is JSON that is nested too deeply", where=where) from None
            except ValueError as error:  # a number of thousands of digits
                raise DataError(f"is not JSON ({_first_line(error)})", where=where) from None
            yield where, value
            line, at = line + text.count("\n", at, end), end


def _csv(path: Path, _: object) -> Iterator[tuple[str, Any]]:
    # The module's default limit is 128 KiB for a field; it can be set for all readers only.
    csv.field_size_limit((1 << 31) - 1)
    with _open(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if "text" not in header:
                has = f"; it has {', '.join(header)}" if header else ""
                raise DataError(f"has no column `text`{has}", where=path)
            column = header.index("text")
            for row in filter(None, reader):
                fields = {"text": row[column]} if column < len(row) else {}
                yield f"{path}, line {reader.line_num}", fields
        except csv.Error as error:
            where = f"{path}, line {reader.line_num}"
            raise DataError(f"is not CSV ({error})", where=where) from None


def _parquet(path: Path, _: object) -> Iterator[tuple[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    where: object = path
    number = 0
    try:
        with path.open("rb") as raw, ParquetFile(raw) as file:
            names = file.schema_arrow.names
            wanted = [name for name in ("text", *_CONVERSATIONS) if name in names]
            if not wanted:
                # Named as for any other document that has neither.
                document_of(dict.fromkeys(names), path)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
                for row in range(batch.num_rows):
                    number += 1
                    where = f"{path}, row {number}"
                    yield where, {name: batch.column(name)[row].as_py() for name in wanted}
                where = f"{path}, after row {number}"
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", where=where) from None
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.strerror is not None:
            raise
        raise DataError(
            f"is not a readable parquet file ({_first_line(error)})", where=where
        ) from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


_READERS: dict[str, Callable[[Path, int | None], Iterator[tuple[str, Any]]]] = {
    ".txt": _separated,
    ".md": _separated,
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
