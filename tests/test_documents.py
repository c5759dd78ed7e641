from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from boomerang.errors import BoomerangError, DataError
from boomerang.evaluate.results import read_lines
from boomerang.report.external import read_external
from boomerang.settings import read_yaml
from boomerang.text import documents
from boomerang.text.documents import SEPARATOR, iter_documents, join_documents, read_documents

TALK = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]


def documents_of(path: Path, longest: int | None = None) -> list[Any]:
    return [document for _, document in iter_documents(path, longest)]


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
        assert documents_of(path) == [part for part in stripped if part]


@given(parts=PARTS, block=st.integers(1, 9), longest=st.integers(2, 20))
def test_long_texts_come_in_pieces_without_a_loss(
    parts: list[str], block: int, longest: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes("".join(parts).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_BLOCK", block)
        pieces = [str(piece) for piece in documents_of(path, longest)]
    # Only line breaks at the edges of pieces go, as at those of documents.
    whole = "".join(str(document) for document in documents_of(path))
    assert "".join(pieces).replace("\n", "") == whole.replace("\n", "")
    assert max(map(len, pieces), default=0) <= longest + len(SEPARATOR)


def test_joined_documents_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(join_documents(["one\ntwo", "three"]))
    assert read_documents([path]) == ["one\ntwo", "three"]


def test_a_long_text_is_cut_at_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one two\nthree four\nfive six seven")
    assert documents_of(path, 14) == ["one two", "three four", "five six seven"]


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
    assert documents_of(texts) == ["One.", "Two."]
    # A table has every key in every message.
    assert documents_of(talks) == [TALK, more]
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
        documents_of(path)
    assert path.name in str(error.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    files = {
        "text.txt": (b"abc\xff\xfe", "byte 3"),
        "cut.txt": ("日".encode() * 3 + b"\xe6", "byte 9"),
        "lines.jsonl": (b'{"text": "One."}\n{"text": \n', r"lines\.jsonl, line 2: is not JSON"),
        "list.jsonl": (b"[1]\n", "either a string `text`"),
        "table.parquet": (b"PAR1 and no more", "not a readable parquet"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=words):
            documents_of(tmp_path / name)
    for suffix in ("txt", "jsonl", "parquet"):
        with pytest.raises(DataError, match=rf"gone\.{suffix}: cannot be read \(No such file"):
            documents_of(tmp_path / f"gone.{suffix}")


# Suffixes: the same bytes are the same documents, or refused.


def test_all_kinds_of_files_hold_the_same_documents(tmp_path: Path) -> None:
    texts = ['One, "two"\nand three.', "日本", "four"]
    records = [{"id": number, "text": text} for number, text in enumerate(texts)]
    lines = "\n".join(json.dumps(record) for record in records)
    rows = "".join(f'{r["id"]},"{r["text"].replace(chr(34), chr(34) * 2)}"\n' for r in records)
    contents = {
        "a.txt": join_documents(texts),
        "a.md": join_documents(texts),
        "lines.jsonl": lines,
        "lines.json": lines.replace("\n", "\r\n"),
        "array.json": json.dumps(records),
        "pretty.json": json.dumps(records, indent=2, ensure_ascii=False),
        "a.csv": f"id,text\n{rows}",
    }
    for name, content in contents.items():
        for mark in (b"", b"\xef\xbb\xbf"):
            path, data = tmp_path / name.upper(), mark + content.encode()
            path.write_bytes(data)
            assert read_documents([path]) == texts, name
            with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
                file.write(data)
            with pa.output_stream(str(tmp_path / f"{name}.zst"), compression="zstd") as stream:
                stream.write(data)
            for suffix in ("gz", "zst"):
                assert read_documents([tmp_path / f"{name}.{suffix}"]) == texts


@given(
    values=st.lists(
        st.dictionaries(st.text('a"\\\u00e9,[]{} \n', max_size=3), st.text(max_size=8))
    ),
    block=st.integers(1, 9),
    form=st.sampled_from(["array", "pretty", "lines"]),
)
def test_json_does_not_depend_on_the_blocks_it_is_read_in(
    values: list[Any], block: int, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("text") / "values.json"
    lines = "\n".join(json.dumps(value) for value in values)
    indent = 1 if form == "pretty" else None
    path.write_text(lines if form == "lines" else json.dumps(values, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_BLOCK", block)
        assert [value for _, value in documents._json(path)] == values


def test_places_in_files_are_lines_rows_and_documents(tmp_path: Path) -> None:
    contents = {
        "a.txt": (f"one{SEPARATOR}two", ["document 1", "document 2"]),
        "a.jsonl": ('{"text": "one"}\n\n{"text": "two"}\n', ["line 1", "line 3"]),
        "a.json": ('[\n {"text": "one"},\n {\n"text": "two"}]', ["line 2", "line 3"]),
        "a.csv": ('text\n"on\ne"\ntwo\n', ["line 3", "line 4"]),
    }
    for name, (content, places) in contents.items():
        path = tmp_path / name
        path.write_text(content)
        assert [where for where, _ in iter_documents(path)] == [f"{path}, {p}" for p in places]


def test_a_large_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BLOCK", 1000)
    record = json.dumps({"text": "x" * 100})
    for name, begin, between in (("a.jsonl", "", "\n"), ("a.json", "[", ",")):
        path = tmp_path / name
        # What is broken at the end is not seen by whoever reads only the beginning.
        path.write_text(begin + between.join([record] * 100) + " broken")
        found = iter_documents(path)
        assert [next(found)[1] for _ in range(50)] == ["x" * 100] * 50


CUT_GZIP = gzip.compress(b"abc" * 999, mtime=0)[:-9]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("half.jsonl", b'{"text": "a"}\n{"text": "b \\ud83d"}\n', "line 2: holds half .*ud83d"),
        ("say.jsonl", b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "line 1: holds h"),
        ("raw.jsonl", b'{"text": "\xed\xa0\xbd"}', r"is not UTF-8 text \(byte 10\)"),
        ("mark.txt", b"\xef\xbb\xbfabc\xff", r"is not UTF-8 text \(byte 6\)"),
        ("deep.jsonl", b'{"text": "a"}\n' + b"[" * 200_000, "line 2: .* nested too deep"),
        ("deep.json", b'[{"a": ' + b'{"a": ' * 200_000, "line 1: .* nested too deep"),
        ("digits.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "line 1: is not JSON"),
        ("cut.json", b'[{"text": "a"}, {"text": "b"', "line 1: is not JSON"),
        ("open.json", b'[{"text": "a"},\n', "line 2: is not JSON .it ends inside the array"),
        ("more.json", b'[{"text": "a"}]\n[1]', "line 2: is not JSON .something follows"),
        ("words.json", b"Once upon a time", "line 1: is not JSON"),
        ("other.csv", b"a;b\nc;d\n", "has no column `text`; it has a;b"),
        ("short.csv", b"id,text\n1,a\n2\n", "line 3: .*it has no keys"),
        ("quote.csv", b'text\n"a', "line 2: is not CSV"),
        ("plain.txt.gz", b"no gzip", "cannot be read .Not a gzipped file"),
        ("cut.txt.gz", CUT_GZIP, "cannot be read .Compressed file ended"),
        ("plain.txt.zst", b"no zstd at all", "cannot be read .*[Uu]nknown frame"),
        ("page.html", b"<p>", r"suffix what it holds; rename it to one of \.txt, \.md, \.jsonl"),
        ("README", b"text", "does not say by its suffix"),
        ("table.parquet.gz", b"text", "does not say by its suffix"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_with_the_place(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        list(iter_documents(path))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    # Neither would the other files that a user names end.
    for read in (read_yaml, read_lines, read_external):
        with pytest.raises(BoomerangError, match="not a regular file"):
            read(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "directory.txt").mkdir()
    for name, words in (
        ("pipe.txt", "is not a regular file"),
        ("zero.txt", "is not a regular file"),
        ("directory.txt", "is a directory"),
        ("null\0.txt", "is not the name of a file"),
    ):
        with pytest.raises(DataError, match=words):
            read_documents([tmp_path / name])


def test_damaged_parquet_is_one_line(tmp_path: Path) -> None:
    broken = pa.array([b"good", b"\xff\xfe"], pa.binary())
    text = pa.StringArray.from_buffers(2, broken.buffers()[1], broken.buffers()[2])
    path = tmp_path / "bytes.parquet"
    parquet.write_table(pa.table({"text": text}), path)
    with pytest.raises(DataError, match=r"bytes\.parquet, row 2: is not UTF-8 text"):
        list(iter_documents(path))
    write_records(tmp_path / "good.parquet", [{"text": f"text {i}" * 9} for i in range(300)])
    good, draw, refused = (tmp_path / "good.parquet").read_bytes(), random.Random(0), 0
    for _ in range(100):
        data = bytearray(good)
        for _ in range(3):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            list(iter_documents(path))
        except DataError as error:
            refused += 1
            assert "None" not in str(error) and "\n" not in str(error)
    assert refused


# Conversations by other names


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("key", ["messages", "conversations", "conversation"])
@pytest.mark.parametrize(
    ("role", "content", "user", "assistant"),
    [
        ("from", "value", "human", "gpt"),
        ("role", "content", "user", "model"),
        ("role", "value", "Human", "BOT"),
        ("from", "content", "prompter", "assistant"),
    ],
)
def test_conversations_by_other_names_are_the_same(
    tmp_path: Path, suffix: str, key: str, role: str, content: str, user: str, assistant: str
) -> None:
    said = [("system", "Be brief."), (user, "Hi."), (assistant, "Hello."), ("tool", "42")]
    record = {key: [{role: who, content: words} for who, words in said]}
    path = write_records(tmp_path / f"talks{suffix}", [record])
    system, tool = ({"role": r, "content": c} for r, c in (said[0], said[3]))
    assert documents_of(path) == [[system, *TALK, tool]]
