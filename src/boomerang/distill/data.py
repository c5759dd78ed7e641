"""Text files as rows of tokens to train on.

Two forms. **Packed**: documents one after the other, an end-of-sequence token between them, cut
into full rows; `position_ids` start again with each document, by which transformers keeps documents
from seeing each other. **Padded**: one document a row. In both, the first token of a document (or
of a row) is no target: nothing before it belongs to the same text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..documents import read_documents
from ..errors import DataError
from .losses import IGNORED
from .recipe import Data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = np.ndarray[Any, np.dtype[np.int32]]

# Documents that go to the tokenizer together: it works on them in parallel.
_BATCH = 64


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of equal length S, each a dict of int64 tensors `[S]`.

    `input_ids`; `labels`, unshifted as in transformers (position t holds token t itself, or -100
    where that token is no target); and `position_ids` (packed) or `attention_mask` (padded).

    Args:
        tokens: `[rows, S]`.
        positions: The place of each token in its document or, for one that began in an earlier row,
            in the row; `[rows, S]`.
        lengths: For padded rows the number of real tokens, `[rows]`.
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

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.from_numpy(self.tokens[index].astype(np.int64))
        positions = torch.from_numpy(self.positions[index].astype(np.int64))
        labels = ids.masked_fill(positions == 0, IGNORED)
        if self.no_target is not None:
            labels = labels.masked_fill(ids == self.no_target, IGNORED)
        if self.lengths is None:
            return {"input_ids": ids, "labels": labels, "position_ids": positions}
        mask = positions < int(self.lengths[index])
        labels = labels.masked_fill(~mask, IGNORED)
        return {"input_ids": ids, "labels": labels, "attention_mask": mask.long()}

    @property
    def packs_documents(self) -> bool:
        """Whether a document begins inside a row, after another one."""
        return bool((self.positions[:, 1:] == 0).any())

    def split(self, held_out: int) -> tuple[Rows, Rows | None]:
        """The rows without the last `held_out`, and those (None for 0)."""
        if not held_out:
            return self, None
        cut = len(self) - held_out
        return self._part(slice(None, cut)), self._part(slice(cut, None))

    def _part(self, part: slice) -> Rows:
        lengths = None if self.lengths is None else self.lengths[part]
        return Rows(self.tokens[part], self.positions[part], lengths, self.no_target)


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack rows to a batch `[B, S]`, without `position_ids` that say nothing.

    Where no document begins inside a row, leaving them out spares the models a mask.
    """
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    positions = batch.get("position_ids")
    if positions is not None and bool((positions[:, -1] == positions.shape[1] - 1).all()):
        del batch["position_ids"]
    return batch


def read_rows(
    data: Data, tokenizer: PreTrainedTokenizerBase, *, eos_is_no_target: bool = False
) -> tuple[Rows, Rows | None]:
    """Tokenise the text of a recipe.

    Args:
        data: Files, row length and form.
        tokenizer: Called as for evaluation (it may put a begin-of-sequence token before each
            document); its end-of-sequence token is added after each document.
        eos_is_no_target: As in the reference, which masks every token that equals the padding
            token, its end-of-sequence token.

    Returns:
        The rows to train on and the held-out ones, if any. The end of the text that fills no packed
        row is left out.

    Raises:
        DataError: A file cannot be read, or there is too little text.
    """
    eos = tokenizer.eos_token_id
    documents = _tokenise(read_documents(data.files), tokenizer, eos)
    make = _packed if data.packing else _padded
    tokens, positions, lengths = make(documents, data.sequence_length, 0 if eos is None else eos)
    if len(tokens) <= data.held_out:
        raise DataError(
            f"the text makes {len(tokens)} rows of {data.sequence_length} tokens, "
            f"{data.held_out} of them held out",
            where=data.files[0],
            fix="give more text, or shorter or fewer held-out rows",
        )
    rows = Rows(tokens, positions, lengths, eos if eos_is_no_target else None)
    return rows.split(data.held_out)


def _tokenise(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, eos: int | None
) -> Iterator[Tokens]:
    documents = iter(documents)
    while batch := list(islice(documents, _BATCH)):
        # verbose: no warning that a book is longer than the model's context; it gets cut.
        for ids in tokenizer(batch, verbose=False)["input_ids"]:
            if eos is not None and ids[-1:] != [eos]:
                ids = [*ids, eos]
            yield np.asarray(ids, dtype=np.int32)


def _packed(documents: Iterable[Tokens], length: int, padding: int) -> tuple[Tokens, Tokens, None]:
    pieces = list(documents)
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    starts = np.zeros(len(tokens), dtype=bool)
    starts[[0, *np.cumsum([len(piece) for piece in pieces])[:-1]] if pieces else []] = True
    rows = len(tokens) // length
    used = rows * length
    starts[:used:length] = True
    index = np.arange(used, dtype=np.int32)
    begins = np.maximum.accumulate(np.where(starts[:used], index, 0)) if used else index
    shape = (rows, length)
    return tokens[:used].reshape(shape), (index - begins).astype(np.int32).reshape(shape), None


def _padded(
    documents: Iterable[Tokens], length: int, padding: int
) -> tuple[Tokens, Tokens, Tokens]:
    pieces = [document[:length] for document in documents]
    tokens = np.full((len(pieces), length), padding, dtype=np.int32)
    for row, piece in zip(tokens, pieces, strict=True):
        row[: len(piece)] = piece
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    return tokens, positions, np.asarray([len(piece) for piece in pieces], dtype=np.int32)
