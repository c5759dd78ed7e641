"""Rows of tokens as tensors: in memory or in an Arrow file, in batches, in the order of phases."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from .data_section import import_datasets
from .pack import Row

IGNORED = -100
"""The label of a token that is not a target, as in transformers."""

ROWS = "rows.arrow"

# Tokens that are written at a time.
_BLOCK = 1 << 20


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of equal length S, each a dict of tensors `[S]`, int64 but for `aligned`.

    `input_ids`; `labels`, unshifted, -100 where a token is no target; `position_ids` that restart
    with each document (packed rows) or `attention_mask` (padded rows); and `aligned`, bool, where
    alignment leaves out real tokens or a packed row ends in padding.

    Args:
        rows: The rows, in memory or in a file.
        packed: Whether `position_ids` separate documents; otherwise a row holds one, padded.
    """

    def __init__(self, rows: Sequence[Row] | StoredRows, packed: bool) -> None:
        self.rows = rows
        self.packed = packed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.rows[index]
        ids = torch.from_numpy(row.tokens.astype(np.int64))
        labels = ids.masked_fill(torch.from_numpy(~row.targets), IGNORED)
        item = {"input_ids": ids, "labels": labels}
        places = np.arange(len(ids))
        if self.packed:
            begins = np.maximum.accumulate(np.where(row.starts, places, 0))
            item["position_ids"] = torch.from_numpy(places - begins)
            plain = np.ones_like(row.aligned)
        else:
            plain = places < row.length
            item["attention_mask"] = torch.from_numpy(plain.astype(np.int64))
        if not np.array_equal(row.aligned, plain):
            item["aligned"] = torch.from_numpy(row.aligned.copy())
        return item


class StoredRows:
    """The rows of a file that `write_arrow` wrote; only the rows in use take memory.

    Raises:
        DataError: The library datasets is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._dataset = import_datasets().Dataset.from_file(str(path)).with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Row:
        table = self._dataset[index]
        *columns, length = (column.chunk(0) for column in table.columns)
        tokens, starts, targets, aligned = (
            column.flatten().to_numpy(zero_copy_only=False) for column in columns
        )
        return Row(tokens, starts, targets, aligned, length[0].as_py())

    def part(self, begin: int, end: int) -> StoredRows:
        """The rows from `begin` to before `end`."""
        found = copy.copy(self)
        found._dataset = self._dataset.select(range(begin, end))
        return found


def write_arrow(path: Path, rows: Iterable[Row], length: int) -> int:
    """Write rows of `length` tokens to an Arrow file, a few at a time; returns their number.

    Raises:
        DataError: The library datasets is not installed.
    """
    import_datasets()  # for its error: a library that is missing is named
    import pyarrow as pa

    kinds = {"tokens": pa.int32()} | dict.fromkeys(("starts", "targets", "aligned"), pa.bool_())
    fields = [(name, pa.list_(kind, length)) for name, kind in kinds.items()]
    schema = pa.schema([*fields, ("length", pa.int32())])
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


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack rows to a batch `[B, S]`; `aligned` is in it if it is in one of the rows.

    `position_ids` are left out where no document begins inside a row: models then need no mask.
    """
    if any("aligned" in row for row in rows):
        rows = [row if "aligned" in row else {**row, "aligned": _all_real(row)} for row in rows]
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    positions = batch.get("position_ids")
    if positions is not None and bool((positions[:, -1] == positions.shape[1] - 1).all()):
        del batch["position_ids"]
    return batch


def count_tokens(batch: dict[str, Tensor]) -> Tensor:
    """How many tokens of a batch take part in alignment, 0-dimensional."""
    if "aligned" in batch:
        return batch["aligned"].sum()
    mask = batch.get("attention_mask")
    return torch.tensor(batch["input_ids"].numel()) if mask is None else mask.sum()


def _all_real(row: dict[str, Tensor]) -> Tensor:
    mask = row.get("attention_mask")
    return torch.ones_like(row["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


class Phase(NamedTuple):
    """A number of rows that are seen together, and their share of the whole run."""

    rows: int
    share: float


class PhasedSampler(Sampler[int]):
    """The `total` rows of a run, one phase after the other, each phase's in random order.

    A phase with fewer rows than its share begins again, in another order. Of a phase with more
    rows some are not seen.
    """

    def __init__(self, phases: Sequence[Phase], total: int, seed: int) -> None:
        self.phases = phases
        self.total = total
        self.seed = seed

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        begin, seen, share = 0, 0, 0.0
        for phase in self.phases:
            share += phase.share
            end = round(self.total * share)
            while seen < end:
                order = torch.randperm(phase.rows, generator=generator)[: end - seen]
                yield from (order + begin).tolist()
                seen += len(order)
            begin += phase.rows
