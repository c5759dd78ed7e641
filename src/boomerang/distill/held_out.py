"""Held-out rows for several processes, in batches of which each process has as many."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from .guard import ROW, NumberedRows


class EvenRows(NumberedRows):
    """Numbered rows, and behind them fillers, so that they divide evenly.

    Divided models need all processes in each pass, so a process that has no row left must run
    another. accelerate would repeat the first rows; these fillers are told by their numbers.

    Args:
        rows: Any dataset of dicts that knows its length, with at least one row.
        multiple: The rows in a batch of all processes together.
    """

    def __init__(self, rows: Any, multiple: int) -> None:
        super().__init__(rows)
        self.multiple = multiple

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.multiple) * self.multiple

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = super().__getitem__(min(index, len(self.rows) - 1))
        return {**row, ROW: row[ROW].new_tensor(index)}


def without_fillers(batch: dict[str, Tensor], count: int) -> tuple[dict[str, Tensor], int]:
    """A batch without fillers, and 1.

    A batch of nothing else stays, to be run with the other processes, and comes with 0.

    Args:
        batch: Tensors `[B, ...]`, `ROW` among them.
        count: The number of rows that are no fillers.
    """
    real = batch[ROW] < count
    rows = {name: value for name, value in batch.items() if name != ROW}
    if not real.any():
        return rows, 0
    return {name: value[real] for name, value in rows.items()}, 1
