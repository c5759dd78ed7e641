"""Refuse a step whose loss or gradient is not finite, and name its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..text.rows import collate

ROW = "row"
_SHOWN = 16


class NumberedRows(Dataset[dict[str, Tensor]]):
    """Rows with their number in the dataset, as `ROW`."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {**self.rows[index], ROW: torch.tensor(index)}


def collate_numbered(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of numbered rows; `ROW` in it is `[B]`."""
    numbers = torch.stack([row[ROW] for row in rows])
    return {**collate([{k: v for k, v in row.items() if k != ROW} for row in rows]), ROW: numbers}


class StepGuard:
    """Remembers the losses of a step's micro-batches and says whether the step may be applied."""

    def begin(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """Begin a step; the numbers of the rows are taken out of its micro-batches."""
        self._rows: list[list[int]] = [batch.pop(ROW).tolist() for batch in batches]
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add the loss of the next micro-batch, 0-dimensional, without waiting for it."""
        self._losses.append(loss.detach())

    def problem(self, gradient_norm: Tensor | float | None) -> str | None:
        """Why the step must not be applied, as a clause; None where it may be.

        Waits for the device, once for the whole step.

        Args:
            gradient_norm: Of all gradients, before clipping. None where it may be infinite, as
                with the loss scaling of fp16, which skips such steps itself.
        """
        losses = torch.stack(self._losses).float().cpu()
        bad = torch.nonzero(~losses.isfinite()).flatten().tolist()
        if bad:
            first = bad[0]
            batch = f"micro-batch {first + 1} of {len(losses)} ({_named(self._rows[first])})"
            return f"the loss of {batch} is {losses[first].item()}"
        if gradient_norm is not None and not torch.tensor(float(gradient_norm)).isfinite():
            rows = [row for rows in self._rows for row in rows]
            return f"the norm of the gradient is {float(gradient_norm)} ({_named(rows)})"
        return None


def _named(rows: Sequence[int]) -> str:
    more = ", ..." if len(rows) > _SHOWN else ""
    return f"rows {', '.join(map(str, rows[:_SHOWN]))}{more}"
