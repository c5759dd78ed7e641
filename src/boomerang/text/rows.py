"""Rows of tokens as tensors, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..distill.losses import IGNORED
from .pack import Mask, Row, Tokens


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of equal length S, each a dict of tensors `[S]`, int64 but for `aligned`.

    `input_ids`; `labels`, unshifted as in transformers (position t holds token t itself, or -100
    where that token is no target); `position_ids` that start again with each document (packed rows)
    or `attention_mask` (padded rows); and `aligned`, bool, where alignment leaves out real tokens,
    or a packed row ends in padding.

    This class holds arrays in memory; `store.load_rows` gives rows from a file.

    Args:
        tokens: `[rows, S]`, int32.
        positions: The place of each token in its document or, for one that began in an earlier row,
            in the row; `[rows, S]`.
        lengths: For padded rows the number of real tokens, `[rows]`; None for packed rows.
        no_target: A token that is never a target.
    """

    def __init__(
        self,
        tokens: Tokens,
        positions: Tokens,
        lengths: Tokens | None = None,
        no_target: int | None = None,
    ) -> None:
        self.tokens = tokens
        self.positions = positions
        self.lengths = lengths
        self.no_target = no_target

    @property
    def packed(self) -> bool:
        """Whether documents are told apart by `position_ids`, not padded to one a row."""
        return self.lengths is None

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, index: int) -> Row:
        """A row as arrays."""
        tokens, starts = self.tokens[index], self.positions[index] == 0
        length = len(tokens) if self.lengths is None else int(self.lengths[index])
        real = np.arange(len(tokens)) < length
        targets = real & ~starts
        if self.no_target is not None:
            targets &= tokens != self.no_target
        return Row(tokens, starts, targets, real, length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.row(index)
        ids = torch.from_numpy(row.tokens.astype(np.int64))
        labels = ids.masked_fill(torch.from_numpy(~row.targets), IGNORED)
        item = {"input_ids": ids, "labels": labels}
        if self.packed:
            item["position_ids"] = torch.from_numpy(_positions(row.starts))
            plain = np.ones_like(row.aligned)
        else:
            plain = np.arange(len(ids)) < row.length
            item["attention_mask"] = torch.from_numpy(plain.astype(np.int64))
        if not np.array_equal(row.aligned, plain):
            item["aligned"] = torch.from_numpy(row.aligned.copy())
        return item


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack rows to a batch `[B, S]`, without `position_ids` that say nothing.

    Where no document begins inside a row, leaving them out spares the models a mask. A batch has
    `aligned` if one of its rows has.
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


def _positions(starts: Mask) -> np.ndarray:
    places = np.arange(len(starts))
    return places - np.maximum.accumulate(np.where(starts, places, 0))


def _all_real(row: dict[str, Tensor]) -> Tensor:
    mask = row.get("attention_mask")
    return torch.ones_like(row["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
