"""Safetensors files written straight from byte ranges of others.

A tensor whose dtype stays goes from file to file inside the kernel (`copy_file_range`); one whose
dtype changes passes through memory in pieces of a few megabytes. The result is what the safetensors
library and transformers would have written: one file, or numbered shards with an index.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

from ..errors import CheckpointError
from .convert import pieces, read_exactly
from .header import DTYPE_BITS
from .member_files import Item
from .weights import INDEX, SINGLE

# How much is copied before progress is reported, how much the fallback holds in memory, and how
# much may be written before the disk is told to take it.
_STRETCH = 16 * 1024 * 1024
_BUFFER = 1024 * 1024
_FLUSH = 64 * 1024 * 1024

_PAGE = 4096

# The ways in which a kernel or file system says that it cannot copy between two files by itself.
_UNSUPPORTED = {
    errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM,
    errno.EBADF, errno.ETXTBSY,
}  # fmt: skip

Report = Callable[[int], None]


def write_weights(
    directory: Path, items: Sequence[Item], max_shard_size: int, report: Report
) -> None:
    """Write tensors as a checkpoint's weights and sync them to the disk.

    Args:
        directory: An existing directory.
        items: The tensors, in the order in which they are split into shards.
        max_shard_size: The most bytes of tensors in a file; a larger tensor gets its own file.
        report: Called with the number of bytes written since the last call.

    Raises:
        CheckpointError: A source cannot be read.
        OSError: The disk is full or cannot be written to.
    """
    shards = split(items, max_shard_size)
    names = [SINGLE]
    if len(shards) > 1:
        stem, suffix = Path(SINGLE).stem, Path(SINGLE).suffix
        names = [f"{stem}-{i:05d}-of-{len(shards):05d}{suffix}" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(directory / name, shard, report)
    if len(shards) > 1:
        _write_index(directory / INDEX, dict(zip(names, shards, strict=True)))


def split(items: Sequence[Item], max_shard_size: int) -> list[list[Item]]:
    """Tensors in shards: each takes the next ones as long as they fit (transformers' rule)."""
    shards: list[list[Item]] = [[]]
    size = 0
    for item in items:
        if shards[-1] and size + item.length > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += item.length
    return shards


def header(items: Sequence[Item]) -> bytes:
    """The first bytes of a file with these tensors, in this order; a multiple of 8.

    The format lets a header end in spaces. A large file gets as many as put most of its bytes at
    the place in a page that they have in their source: the kernel copies those a third faster.
    """
    # Entry by entry: of a whole dict, json would first make some twenty small strings per tensor.
    text = bytearray(b'{"__metadata__":{"format":"pt"}')
    position = 0
    for item in items:
        end = position + item.length
        entry = {"dtype": item.dtype, "shape": item.source.shape, "data_offsets": [position, end]}
        text += f",{_compact(item.name)}:{_compact(entry)}".encode()
        position = end
    text += b"}"
    begin, unit = (_phase(items), _PAGE) if position >= _FLUSH else (0, 8)
    text += b" " * ((begin - 8 - len(text)) % unit)
    return struct.pack("<Q", len(text)) + text


_compact = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _phase(items: Sequence[Item]) -> int:
    """Where in a page the data should begin; a multiple of 8."""
    bytes_by_phase: Counter[int] = Counter()
    position = 0
    for item in items:
        if item.dtype == item.source.dtype:
            bytes_by_phase[(item.source.start - position) % _PAGE] += item.length
        position += item.length
    return next((phase for phase, _ in bytes_by_phase.most_common() if phase % 8 == 0), 0)


def _write_file(path: Path, items: Sequence[Item], report: Report) -> None:
    # Widest first, so that every tensor begins at a multiple of its element size; then by name.
    ordered = sorted(items, key=lambda item: (-DTYPE_BITS[item.dtype], item.name))
    with path.open("xb", buffering=0) as file:
        _write_all(file.fileno(), header(ordered))
        with _Flusher(file.fileno()) as flusher:
            for item in ordered:
                for count in _write_item(file.fileno(), item):
                    report(count)
                    flusher.wrote(count)


class _Flusher:
    """Syncs a file to the disk while the rest is still being written, and at the end.

    Copying keeps the processor busy and syncing the disk: together they take little longer than
    one of them. Raises the error of any sync.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = 0
        self._thread: threading.Thread | None = None
        self._failures: list[OSError] = []

    def wrote(self, count: int) -> None:
        self._written += count
        busy = self._thread is not None and self._thread.is_alive()
        if self._written >= _FLUSH and not busy:
            self._written = 0
            self._thread = threading.Thread(target=self._sync)
            self._thread.start()

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # The kernel reports a failed write to one caller only, so it must not be lost here.
            self._failures.append(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()
        if kind is None:
            self._sync()
            for failure in self._failures:
                raise failure


def _write_item(target: int, item: Item) -> Iterator[int]:
    """Append a tensor to a file; yields the number of bytes of each part."""
    if item.dtype != item.source.dtype:
        for piece in pieces(item.source, item.dtype):
            _write_all(target, piece)
            yield len(piece)
        return
    try:
        source = os.open(item.source.file, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror})", where=item.source.file
        ) from None
    try:
        copied = 0
        while copied < item.length:
            count = _copy(source, target, item, copied)
            copied += count
            yield count
    finally:
        os.close(source)


def _copy(source: int, target: int, item: Item, done: int) -> int:
    """Append the next stretch of a tensor to a file; how many bytes that were."""
    left = min(_STRETCH, item.length - done)
    if hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, target, left, offset_src=item.source.start + done)
            # Some file systems say 0 where they mean that they cannot.
            if count:
                return count
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    piece = read_exactly(source, item.source, done, min(_BUFFER, left))
    _write_all(target, piece)
    return len(piece)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _write_index(path: Path, shards: dict[str, list[Item]]) -> None:
    items = [item for shard in shards.values() for item in shard]
    content = {
        "metadata": {
            "total_parameters": sum(item.source.elements for item in items),
            "total_size": sum(item.length for item in items),
        },
        "weight_map": {item.name: name for name, shard in shards.items() for item in shard},
    }
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, sort_keys=True)
        file.write("\n")
