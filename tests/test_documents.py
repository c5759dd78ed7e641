from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from boomerang.errors import DataError
from boomerang.text import documents
from boomerang.text.documents import SEPARATOR, iter_documents, join_documents, read_documents

TALK = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]

PARTS = st.lists(st.sampled_from(["a", "é", "\r\n", "\n", "日", "<|end", SEPARATOR]), max_size=40)


@given(parts=PARTS, block=st.integers(1, 9))
def test_the_documents_of_a_text_do_not_depend_on_the_blocks_it_is_read_in(
    parts: list[str], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes("".join(parts).encode())
    stripped = [part.strip("\n") for part in path.read_text().split(SEPARATOR)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_BLOCK", block)
        assert list(iter_documents(path)) == [part for part in stripped if part]


@given(parts=PARTS, block=st.integers(1, 9), longest=st.integers(2, 20))
def test_long_texts_come_in_pieces_without_a_loss(
    parts: list[str], block: int, longest: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes("".join(parts).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_BLOCK", block)
        pieces = [str(piece) for piece in iter_documents(path, longest)]
    # Only line breaks at the edges of pieces go, as at those of documents.
    whole = "".join(str(document) for document in iter_documents(path))
    assert "".join(pieces).replace("\n", "") == whole.replace("\n", "")
    assert max(map(len, pieces), default=0) <= longest + len(SEPARATOR)


def test_joined_documents_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(join_documents(["one\ntwo", "three"]))
    assert read_documents([path]) == ["one\ntwo", "three"]


def test_a_long_text_is_cut_at_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one two\nthree four\nfive six seven")
    assert list(iter_documents(path, 14)) == ["one two", "three four", "five six seven"]


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_records_hold_texts_or_conversations(tmp_path: Path, suffix: str) -> None:
    more = [*TALK, {"role": "user", "content": "Bye.", "name": "Tom"}]
    texts = write_records(
        tmp_path / f"texts{suffix}", [{"text": "One.\n", "id": 1}, {"text": ""}, {"text": "Two."}]
    )
    talks = write_records(tmp_path / f"talks{suffix}", [{"messages": TALK}, {"messages": more}])
    assert list(iter_documents(texts)) == ["One.", "Two."]
    # A table has every key in every message.
    assert list(iter_documents(talks)) == [TALK, more]
    assert read_documents([texts]) == ["One.", "Two."]
    with pytest.raises(DataError, match="conversations where plain text"):
        read_documents([talks])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"txt": "One."}, "either a string `text` or a list `messages`; it has txt"),
        ({"text": "One.", "messages": TALK}, "it has text, messages"),
        ({"text": 3}, "it has text"),
        ({"messages": []}, "it has messages"),
        ({"messages": [{"content": "Hi."}]}, "messages with a `role`"),
    ],
)
def test_records_that_hold_neither_are_named(
    tmp_path: Path, suffix: str, record: dict[str, Any], words: str
) -> None:
    path = write_records(tmp_path / f"records{suffix}", [record])
    with pytest.raises(DataError, match=words) as error:
        list(iter_documents(path))
    assert path.name in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    files = {
        "text.txt": (b"abc\xff\xfe", "byte 3"),
        "cut.txt": ("日".encode() * 3 + b"\xe6", "byte 9"),
        "lines.jsonl": (b'{"text": "One."}\n{"text": \n', r"lines\.jsonl, line 2: is no JSON"),
        "list.jsonl": (b"[1]\n", "either a string `text`"),
        "table.parquet": (b"PAR1 and no more", "no readable parquet"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            list(iter_documents(tmp_path / name))
    for suffix in ("txt", "jsonl", "parquet"):
        with pytest.raises(DataError, match=rf"gone\.{suffix}: cannot be read \(No such file"):
            list(iter_documents(tmp_path / f"gone.{suffix}"))
