"""Headers of safetensors files: read without trust, checked before a byte of data is used.

A safetensors file is the length of its header (8 bytes, little-endian), the header (a flat JSON
object: for each tensor its dtype, shape and byte range) and the data. The format is the one
documented at https://huggingface.co/docs/safetensors; a header that breaks any of its rules is
refused.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from .jsonfile import IS_POINTER, LFS_POINTER

MAX_HEADER = 100_000_000

# Size of an element in bits.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

# A header is flat, so it is read entry by entry with bounded patterns: it costs its own bytes and
# the result, however it is written, where a JSON parser can be made to build a hundred times as
# much.
_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]|\\.){0,4096}+"'
_KEY = re.compile(_SPACE + rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE, re.DOTALL)
_ENTRY = re.compile(rb"\{[^{}]{0,4096}+\}")
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,}])")
_END = re.compile(_SPACE + rb"\}")
_KEYS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor on disk.

    Args:
        name: Its name in the file.
        file: The safetensors file.
        dtype: As safetensors spells it, such as `"BF16"`.
        shape: Its dimensions.
        start: Where its bytes begin in the file.
        length: How many bytes they are.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int

    @property
    def elements(self) -> int:
        """The number of elements; two 4-bit numbers in one byte count as two."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in the order of their bytes.

    Args:
        path: The file. Only its header is read.

    Raises:
        CheckpointError: The file is unreadable, truncated or breaks a rule of the format; the
            message names the file and, where there is one, the tensor.
    """
    try:
        with open(path, "rb", opener=open_plain) as file:
            size = os.fstat(file.fileno()).st_size
            raw = _raw_header(file, size, path)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=path) from None
    tensors: dict[str, Tensor] = {}
    # A model has thousands of tensors and few shapes: each shape is held once.
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    for name, entry in _entries(raw, path):
        if name in tensors:
            raise CheckpointError(f"names tensor {short(name)} twice", where=path)
        tensor = _tensor(name, entry, path, data=8 + len(raw), size=size)
        shape = shapes.setdefault(tensor.shape, tensor.shape)
        tensors[name] = replace(tensor, shape=shape)
    in_order = sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.length))
    _check_cover(in_order, path, data=8 + len(raw), size=size)
    return {tensor.name: tensor for tensor in in_order}


def open_plain(path: str, flags: int) -> int:
    """An opener for `open` that takes nothing but plain files, and does not wait for one.

    Raises:
        OSError: It is something else, or cannot be opened.
    """
    # Without O_NONBLOCK the opening of a pipe would wait for a writer.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "not a plain file")
    return descriptor


def _raw_header(file: BinaryIO, size: int, path: Path) -> bytes:
    prefix = file.read(8)
    if len(prefix) < 8:
        raise CheckpointError(f"is truncated: it has only {len(prefix)} bytes", where=path)
    if prefix == LFS_POINTER[:8]:
        raise CheckpointError(**IS_POINTER, where=path)
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER:
        raise CheckpointError(
            f"claims a header of {length} bytes, more than the format's {MAX_HEADER}", where=path
        )
    if length > size - 8:
        raise CheckpointError(
            f"is truncated: its header should have {length} bytes and the file has {size}",
            where=path,
        )
    raw = file.read(length)
    if len(raw) < length:
        raise CheckpointError("became shorter while it was read", where=path)
    return raw


def _entries(raw: bytes, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each tensor's name and entry; the free-text metadata is checked and passed over."""
    _check_utf8(raw, path)
    if not raw.startswith(b"{"):
        raise CheckpointError("has a header that is no JSON object", where=path)
    at_end = _END.match(raw, 1)
    position = at_end.end() if at_end else 1
    closed = at_end is not None
    has_metadata = False
    while not closed:
        key = _match(_KEY, raw, position, path)
        name = _parse(key[1], path)
        if name == _METADATA:
            if has_metadata:
                raise CheckpointError(f"has {_METADATA} twice", where=path)
            has_metadata = True
            position = _skip_metadata(raw, key.end(), path)
        else:
            entry = _match(_ENTRY, raw, key.end(), path, name)
            yield name, _parse(entry[0], path, name)
            position = entry.end()
        separator = _match(_NEXT, raw, position, path)
        position = separator.end()
        closed = separator[1] == b"}"
    if raw[position:].strip(b" \t\r\n"):
        raise CheckpointError(
            f"has a header that goes on after its end, at byte {position}", where=path
        )


def _skip_metadata(raw: bytes, position: int, path: Path) -> int:
    """Where the object of strings that begins here ends."""
    if raw[position : position + 1] != b"{":
        raise CheckpointError(f"has a {_METADATA} that is no object of strings", where=path)
    position += 1
    at_end = _END.match(raw, position)
    if at_end:
        return at_end.end()
    while True:
        key = _match(_KEY, raw, position, path, _METADATA)
        value = _match(_TEXT, raw, key.end(), path, _METADATA)
        separator = _match(_NEXT, raw, value.end(), path, _METADATA)
        position = separator.end()
        if separator[1] == b"}":
            return position


def _match(
    pattern: re.Pattern[bytes], raw: bytes, position: int, path: Path, name: str | None = None
) -> re.Match[bytes]:
    found = pattern.match(raw, position)
    if found is None:
        entry = "" if name is None else f", in the entry of {short(name)}"
        raise CheckpointError(
            f"has a header that is not the JSON of a safetensors file at byte {position}{entry}",
            where=path,
        )
    return found


def _parse(piece: bytes, path: Path, name: str | None = None) -> Any:
    try:
        value = _DECODER.decode(piece.decode())
        # An escape can spell half of a surrogate pair, which is no character and in no UTF-8.
        if isinstance(value, str):
            value.encode()
        return value
    except (ValueError, RecursionError) as error:
        reason = error.what if isinstance(error, CheckpointError) else "no JSON"
        if isinstance(error, UnicodeEncodeError):
            reason = f"{short(error.object)} is no Unicode text"
        entry = "" if name is None else f" in the entry of {short(name)}"
        raise CheckpointError(f"has a broken header{entry} ({reason})", where=path) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise CheckpointError("a key is repeated")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates)


def _check_utf8(raw: bytes, path: Path) -> None:
    # Decoded in pieces and thrown away: as one string it could take four times the space.
    decoder = getincrementaldecoder("utf-8")()
    step = 1 << 16
    try:
        for start in range(0, len(raw), step):
            decoder.decode(raw[start : start + step])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise CheckpointError("has a header that is not UTF-8", where=path) from None


def _tensor(name: str, entry: dict[str, Any], path: Path, *, data: int, size: int) -> Tensor:
    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"tensor {short(name)} {what}", where=path)

    if entry.keys() != _KEYS:
        raise refuse(
            f"has the keys {short(sorted(entry))} instead of dtype, shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise refuse(f"has the unknown dtype {short(dtype)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise refuse(f"has no shape but {short(shape)}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int for n in offsets)
    ):
        raise refuse(f"has no data_offsets but {short(offsets)}")
    begin, end = offsets
    if not 0 <= begin <= end <= size - data:
        raise refuse(
            f"has data_offsets {short(offsets)} outside the file's {size - data} data bytes"
        )
    bits = prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        raise refuse(f"has {end - begin} bytes, which is not {short(shape)} of {dtype}")
    return Tensor(name, path, sys.intern(dtype), tuple(shape), data + begin, end - begin)


def _check_cover(tensors: list[Tensor], path: Path, *, data: int, size: int) -> None:
    """The tensors' bytes are the file's, each exactly once."""
    position = data
    for tensor in tensors:
        if tensor.start != position:
            kind = "overlaps the one before it" if tensor.start < position else "comes after a hole"
            raise CheckpointError(f"tensor {short(tensor.name)} {kind}", where=path)
        position += tensor.length
    if position != size:
        raise CheckpointError(f"has {size - position} bytes that belong to no tensor", where=path)


def short(value: object) -> str:
    """What a message says of a name or value from a file: at most 80 printable characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text[:81])
    return text if len(text) <= 80 else text[:77] + "..."
