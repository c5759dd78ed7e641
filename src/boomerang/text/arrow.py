"""Rows in an Arrow file: written as they come, mapped into memory to be read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .pack import Row
from .rows import Rows
from .streams import import_datasets

ROWS = "rows.arrow"

# Tokens that are written at a time.
_BLOCK = 1 << 20


def write_arrow(path: Path, rows: Iterable[Row], length: int) -> int:
    """Write rows to an Arrow file with a column for each field of `Row`; says how many there were.

    Args:
        path: The new file.
        rows: Held in memory a few at a time.
        length: Tokens in a row.

    Raises:
        DataError: The library datasets is not installed.
    """
    import_datasets()  # brings pyarrow along, and words for when it is missing
    import pyarrow as pa

    kinds = {"tokens": pa.int32(), "starts": pa.bool_(), "targets": pa.bool_()}
    kinds["aligned"] = pa.bool_()
    fields = [pa.field(name, pa.list_(kind, length)) for name, kind in kinds.items()]
    schema = pa.schema([*fields, pa.field("length", pa.int32())])
    rows = iter(rows)
    number = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        while block := list(islice(rows, max(1, _BLOCK // length))):
            number += len(block)
            *columns, lengths = zip(*block, strict=True)
            arrays: list[Any] = [
                pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(column)), length)
                for column in columns
            ]
            arrays.append(pa.array(lengths, pa.int32()))
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    return number


class StoredRows(Rows):
    """Rows of an Arrow file; what is not looked at takes no memory.

    Args:
        dataset: A `datasets.Dataset` with the columns of `Row`.
        packed: Whether documents are told apart by `position_ids`.
    """

    def __init__(self, dataset: Any, packed: bool) -> None:
        self._dataset = dataset
        self._packed = packed

    @classmethod
    def open(cls, path: Path, packed: bool) -> StoredRows:
        """Map a file that `write_arrow` wrote.

        Raises:
            DataError: The library datasets is not installed.
        """
        dataset = import_datasets().Dataset.from_file(str(path))
        return cls(dataset.with_format("arrow"), packed)

    @property
    def packed(self) -> bool:
        """Whether documents are told apart by `position_ids`, not padded to one a row."""
        return self._packed

    def __len__(self) -> int:
        return len(self._dataset)

    def row(self, index: int) -> Row:
        """A row as arrays."""
        table = self._dataset[index]
        *columns, length = (column.chunk(0) for column in table.columns)
        tokens, starts, targets, aligned = (
            column.flatten().to_numpy(zero_copy_only=False) for column in columns
        )
        return Row(tokens, starts, targets, aligned, length[0].as_py())

    def part(self, begin: int, end: int) -> StoredRows:
        """The rows from `begin` to before `end`."""
        return StoredRows(self._dataset.select(range(begin, end)), self._packed)
