"""Safetensors headers: good ones read exactly, bad ones refused by a typed error."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from boomerang.checkpoint.directory import read_config
from boomerang.checkpoint.header import DTYPE_BITS, MAX_HEADER, read_header
from boomerang.checkpoint.weights import read_weights
from boomerang.errors import CheckpointError

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    tensors = {
        "weight": torch.randn(3, 5),
        "half": torch.randn(7).bfloat16(),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.empty(0, 4),
        "näme \u20ac\U0001f600": torch.tensor([True]),
    }
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "odd": '}"{\\'})
    found = read_header(path)
    assert found.keys() == tensors.keys()
    raw = path.read_bytes()
    for name, tensor in tensors.items():
        entry = found[name]
        assert entry.shape == tuple(tensor.shape)
        assert entry.file == path
        stored = raw[entry.start : entry.start + entry.length]
        assert stored == tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_equal_shapes_and_dtypes_are_held_once(tmp_path: Path) -> None:
    """Mixtures of experts have tens of thousands of tensors, and few of them differ in shape."""
    two = {"dtype": "F32", "shape": [300, 0], "data_offsets": [0, 0]}
    a, b = read_header(file_of(tmp_path / "a", {"a": two, "b": two})).values()
    assert a.shape is b.shape and a.dtype is b.dtype


def test_dtypes_are_those_of_the_library() -> None:
    from safetensors.torch import _TYPES

    for name, dtype in _TYPES.items():
        assert DTYPE_BITS[name] == 8 * dtype.itemsize


def test_header_of_nothing(tmp_path: Path) -> None:
    assert read_header(file_of(tmp_path / "a", b"{}  ")) == {}
    assert read_header(file_of(tmp_path / "b", {"__metadata__": {}})) == {}


BROKEN = {
    "no JSON": b"{hello}",
    "a list": b"[]",
    "nothing": b"",
    "cut short": b'{"a":{"dtype":"F32","shape":[2],"data_offs',
    "goes on": b"{} {}",
    "not UTF-8": b'{"\xff":' + json.dumps(ONE).encode() + b"}",
    "half a character": b'{"a":' + json.dumps(ONE).encode() + b"}\xe2\x82",
    "no comma": b'{"a":' + json.dumps(ONE).encode() + b' "b":1}',
    "trailing comma": b'{"a":' + json.dumps(ONE).encode() + b",}",
    "metadata of numbers": {"__metadata__": {"format": 1}},
    "metadata twice": b'{"__metadata__":{},"__metadata__":{}}',
    "nested": b"[" * 100_000,
    "nested entry": b'{"a":' + b"[" * 50_000 + b"}",
    "broken escape": b'{"\\x":' + json.dumps(ONE).encode() + b"}",
    "half a character in an escape": b'{"a\\ud800":' + json.dumps(ONE).encode() + b"}",
    "raw line break": b'{"a\nb":' + json.dumps(ONE).encode() + b"}",
}


@pytest.mark.parametrize("header", BROKEN.values(), ids=BROKEN)
def test_refuses_what_is_no_header(tmp_path: Path, header: Any) -> None:
    refused(file_of(tmp_path / "a", header, bytes(8)))


WRONG = {
    "unknown dtype": {"dtype": "F31"},
    "dtype no string": {"dtype": 3},
    "shape too large": {"shape": [3]},
    "shape negative": {"shape": [-2]},
    "shape of truth": {"shape": [2, True]},
    "shape of fractions": {"shape": [2.0]},
    "shape no list": {"shape": 2},
    "endless shape": {"shape": [10**400]},
    "one offset": {"data_offsets": [8]},
    "offsets reversed": {"data_offsets": [8, 0]},
    "offsets outside": {"data_offsets": [8, 16]},
    "offsets negative": {"data_offsets": [-8, 0]},
    "offsets text": {"data_offsets": ["0", "8"]},
    "a key too many": {"more": 1},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_refuses_wrong_entries_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    message = refused(file_of(tmp_path / "a", {"some.tensor": ONE | change}, bytes(8)))
    assert "some.tensor" in message


def test_refuses_a_missing_key_by_name(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2]}
    assert "some.tensor" in refused(file_of(tmp_path / "a", {"some.tensor": entry}, bytes(8)))


def test_refuses_duplicate_names(tmp_path: Path) -> None:
    entry = json.dumps(ONE).encode()
    assert "twice" in refused(
        file_of(tmp_path / "a", b'{"a":%b,"a":%b}' % (entry, entry), bytes(8))
    )
    # The same name spelled in another way is the same name.
    twice = b'{"a":%b,"\\u0061":%b}' % (entry, entry)
    assert "twice" in refused(file_of(tmp_path / "b", twice, bytes(8)))
    key = b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    assert "repeated" in refused(file_of(tmp_path / "c", key, bytes(8)))


def test_refuses_overlaps_holes_and_leftovers(tmp_path: Path) -> None:
    def two(start: int, end: int) -> dict[str, Any]:
        return {"a": ONE, "b": ONE | {"data_offsets": [start, end]}}

    assert "overlaps" in refused(file_of(tmp_path / "a", two(4, 12), bytes(12)))
    assert "hole" in refused(file_of(tmp_path / "b", two(12, 20), bytes(20)))
    assert "no tensor" in refused(file_of(tmp_path / "c", two(8, 16), bytes(17)))
    assert "hole" in refused(
        file_of(tmp_path / "d", {"a": ONE | {"data_offsets": [4, 12]}}, bytes(12))
    )
    assert len(read_header(file_of(tmp_path / "e", two(8, 16), bytes(16)))) == 2


def test_refuses_truncated_files_and_absurd_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a"
    whole = file_of(path, {"a": ONE}, bytes(8)).read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)
    for claimed in (MAX_HEADER + 1, 2**40, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", claimed) + whole[8:])
        assert str(claimed) in refused(path)


def test_refuses_what_is_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "pipe", "missing"):
        refused(tmp_path / name)


HOSTILE = {
    "containers": b"[" + b"[]," * 700_000 + b"[]]",
    "containers in an entry": b'{"a":' + b"[" + b"[]," * 700_000 + b"[]]}",
    "numbers": b'{"a":{"dtype":"F32","shape":[' + b"1000," * 400_000 + b"1]}}",
    "wide characters": ('{"' + "\U0001f600" * 500_000 + '":1}').encode(),
    "metadata": b'{"__metadata__":{' + b'"ab":"cd",' * 200_000 + b'"e":"f"}}',
    "a long name": b'{"' + b"a" * 2_000_000 + b'":1}',
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_a_header_costs_no_more_than_its_own_bytes(tmp_path: Path, header: bytes) -> None:
    path = file_of(tmp_path / "a", header)
    tracemalloc.start()
    with contextlib.suppress(CheckpointError):
        read_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The bytes once, and little else.
    assert peak < len(header) + 1_000_000


def test_a_claimed_length_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1))
        file.truncate(10 * MAX_HEADER)
    tracemalloc.start()
    refused(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, cut out or put in anywhere: tensors inside the file, or a CheckpointError."""
    names = data.draw(st.lists(st.text(max_size=8), max_size=4, unique=True))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        length = data.draw(st.integers(0, 5))
        header[name] = {
            "dtype": "U8",
            "shape": [length],
            "data_offsets": [position, position + length],
        }
        position += length
    raw = json.dumps(header, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    good = struct.pack("<Q", len(raw)) + raw + bytes(position)
    at = data.draw(st.integers(0, len(good)))
    cut = data.draw(st.integers(0, 12))
    path = tmp_path / "a"
    path.write_bytes(good[:at] + data.draw(st.binary(max_size=12)) + good[at + cut :])
    try:
        tensors = read_header(path)
    except CheckpointError:
        return
    assert sum(tensor.length for tensor in tensors.values()) <= path.stat().st_size
    assert all(8 <= t.start <= t.start + t.length <= path.stat().st_size for t in tensors.values())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=64), length=st.integers(0, 80))
def test_any_bytes_are_read_or_refused(tmp_path: Path, raw: bytes, length: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", length) + raw)
    try:
        read_header(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))


def checkpoint(directory: Path, *names: str) -> Path:
    directory.mkdir()
    for name in names:
        file_of(directory / name, {name: ONE}, bytes(8))
    return directory


def index(directory: Path, weight_map: Any) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def refused_directory(directory: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_weights(directory)
    for word in words:
        assert word in str(caught.value)


def test_index_joins_files(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "d", "x.safetensors", "y.safetensors")
    index(directory, {name: name for name in ("x.safetensors", "y.safetensors")})
    assert read_weights(directory).keys() == {"x.safetensors", "y.safetensors"}


def test_index_may_not_lie(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "d", "x.safetensors", "y.safetensors")
    outside = checkpoint(tmp_path / "outside", "z.safetensors")
    index(directory, {"a": "missing.safetensors"})
    refused_directory(directory, "missing.safetensors", "is missing")
    for name in ("../outside/z.safetensors", str(outside / "z.safetensors"), "sub/z.safetensors"):
        index(directory, {"z.safetensors": name})
        # A long name is cut short.
        refused_directory(directory, name[:60], "not in it")
    (directory / "z.safetensors").symlink_to(outside / "z.safetensors")
    index(directory, {"z.safetensors": "z.safetensors"})
    refused_directory(directory, "z.safetensors", "link")
    index(directory, {"a": "x.safetensors"})
    refused_directory(directory, "tensor a", "x.safetensors")
    index(directory, {"a": ["x.safetensors"]})
    refused_directory(directory, "index.json")
    index(directory, {})
    refused_directory(directory, "weight_map")
    for broken in ("", "[]", "{", "\ufeff{}", "[" * 100_000, '{"weight_map": NaN}'):
        (directory / "model.safetensors.index.json").write_text(broken)
        refused_directory(directory, "index.json")


def test_index_with_a_tensor_in_two_files(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "d", "x.safetensors", "y.safetensors")
    file_of(
        directory / "y.safetensors",
        {"x.safetensors": ONE, "y": ONE | {"data_offsets": [8, 16]}},
        bytes(16),
    )
    index(directory, {"x.safetensors": "x.safetensors", "y": "y.safetensors"})
    refused_directory(directory, "x.safetensors", "two files")


def test_links_into_the_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    file_of(repository / "blobs" / "abc", {"a": ONE}, bytes(8))
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert read_weights(snapshot).keys() == {"a"}
    # Another repository's blobs are not this one's.
    other = tmp_path / "models--owner--other" / "snapshots" / ("1" * 40)
    other.mkdir(parents=True)
    (other / "model.safetensors").symlink_to(repository / "blobs" / "abc")
    refused_directory(other, "link")


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused_directory(tmp_path, "pickled", "python -c", "save_pretrained")
    (tmp_path / "pytorch_model.bin").unlink()
    refused_directory(tmp_path, "no weights")


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_text(pointer)
    refused_directory(tmp_path, "is a Git LFS pointer", "git lfs pull")
    with pytest.raises(CheckpointError, match="is a Git LFS pointer"):
        read_config(tmp_path)
