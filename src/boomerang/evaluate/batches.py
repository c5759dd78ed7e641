"""Rows as one call of a model, and where to read the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..text.windows import Text
from .request_rows import Ints, Read, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of a call of `text_batches`, whose caller may keep the states of all layers.
_TOKENS_ON_CPU = 1 << 10
_TOKENS = 1 << 12


@dataclass(frozen=True)
class Batch:
    """One call of a model; B rows of S tokens, R states read for K targets.

    Attributes:
        inputs: Arguments of the model: `input_ids` `[B, S]`, and for rows with branches
            `position_ids` `[B, S]` and an additive `attention_mask` `[B, 1, S, S]`.
        predicted: Shape (R,): the states to read, as indices into `[B * S]`, increasing.
        rows: Shape (K,): for each target the state that predicts it, not decreasing.
        targets: Shape (K,): token ids.
        requests: Shape (n,): the requests' indices.
        request_of: Shape (K,): whose target it is, as an index into `requests`.
    """

    inputs: dict[str, Tensor]
    predicted: Tensor
    rows: Ints
    targets: Ints
    requests: Ints
    request_of: Ints

    @property
    def size(self) -> int:
        """The number of tokens, padding included."""
        return self.inputs["input_ids"].numel()

    def read(self, states: Tensor) -> Tensor:
        """The states that predict targets, `[R, D]`, of all states `[B, S, D]`."""
        return states.flatten(0, 1)[self.predicted.to(states.device)]


def text_batches(text: Text, model: PreTrainedModel) -> Iterator[Batch]:
    """Text as calls of a model, in which every token that a window scores counts once.

    Args:
        text: From `prepare`; the longest windows come first.
        model: Its device and dtype are those of the inputs.
    """
    most = _TOKENS_ON_CPU if model.device.type == "cpu" else _TOKENS
    left = []
    for number, window in enumerate(text.windows):
        places = np.arange(len(window.inputs))
        read = Read(number, places[window.start :], np.array(window.targets))
        ends = np.full_like(places, len(places))
        left.append(Row(np.array(window.inputs), places, ends, (read,)))
    left.sort(key=len, reverse=True)
    while left:
        rows, left = split(left, most, max(1, most // len(left[0])))
        yield make_batch(rows, model.device, model.dtype)


def split(rows: Sequence[Row], tokens: int, count: int | None) -> tuple[list[Row], list[Row]]:
    """The rows of the next call, at least one, and those left.

    Args:
        rows: With and without branches apart, each kind with the longest first.
        tokens: The most tokens of a call, padding included. Once a call has a quarter of them, it
            takes no row of which a quarter would be padding.
        count: The most rows of a call, whatever their tokens; None for no other bound.
    """
    first, width = rows[0], len(rows[0])
    most = max(1, tokens // width) if count is None else count
    for number, row in enumerate(rows[:most]):
        much_padding = 4 * len(row) < 3 * width and 4 * number * width >= tokens
        if row.branched != first.branched or (count is None and much_padding):
            most = number
            break
    return list(rows[:most]), list(rows[most:])


def make_batch(rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> Batch:
    """Put rows into tensors.

    Shorter rows are padded on the right, which no token that is read sees. Rows without branches
    get no mask, as in lm-evaluation-harness: the model's own is causal.

    Args:
        rows: All with branches, or all without.
        device: Where the model takes its inputs.
        dtype: The model's.
    """
    width = max(len(row) for row in rows)
    # Any token would do. The row's last one is rarely a padding token, which models warn about.
    tokens = np.stack([np.pad(row.tokens, (0, width - len(row)), mode="edge") for row in rows])
    inputs = {"input_ids": torch.from_numpy(tokens).to(device)}
    if rows[0].branched:
        positions = np.stack([np.pad(row.positions, (0, width - len(row))) for row in rows])
        inputs["position_ids"] = torch.from_numpy(positions).to(device)
        inputs["attention_mask"] = _mask(rows, width, device, dtype)
    reads = [(row, read) for row, all_of_row in enumerate(rows) for read in all_of_row.reads]
    places = np.concatenate([row * width + read.places for row, read in reads])
    targets = np.concatenate([read.targets for _, read in reads])
    request_of = np.repeat(np.arange(len(reads)), [len(read.targets) for _, read in reads])
    predicted, state_of = np.unique(places, return_inverse=True)
    by_state = np.argsort(state_of, kind="stable")
    return Batch(
        inputs,
        torch.from_numpy(predicted).to(device),
        state_of[by_state],
        targets[by_state],
        np.array([read.request for _, read in reads]),
        request_of[by_state],
    )


def _mask(rows: Sequence[Row], width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """0 where query i (second last dimension) sees key j (last), the least number elsewhere."""
    # Padding sees itself: a softmax over nothing is NaN.
    padded = [np.pad(row.ends, (0, width - len(row)), constant_values=width) for row in rows]
    ends = torch.from_numpy(np.stack(padded)).to(device)
    index = torch.arange(width, device=device)
    query, key = index[:, None], index[None, :]
    seen = (key <= query) & (query < ends[:, None, :])
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
