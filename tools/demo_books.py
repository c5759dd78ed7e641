"""The demo's books as token ids: a byte-level tokenizer, encoded splits, a seeded order.

A folder of books holds train.txt, valid.txt and test.txt, whole books separated by two blank lines.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

EOS = "<eos>"
BOOK_SEPARATOR = "\n\n\n"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Data:
    """The encoded books.

    Args:
        tokenizer: The byte-level BPE tokenizer trained on train.txt.
        tokens: Token ids of each split, uint16; an end-of-text token before every book and at the
            end, none within a book.
        fingerprint: What the encoding was made from, to refuse a work folder of other books.
    """

    tokenizer: Tokenizer
    tokens: dict[str, np.ndarray]
    fingerprint: dict[str, Any]

    @property
    def token_bytes(self) -> Tensor:
        """Bytes of text each token id stands for, int64 of shape (vocabulary,)."""
        sizes = torch.zeros(self.tokenizer.get_vocab_size(), dtype=torch.int64)
        for piece, token in self.tokenizer.get_vocab().items():
            sizes[token] = 0 if piece == EOS else len(piece)  # a character of a piece is a byte
        return sizes


def read_books(path: Path) -> list[str]:
    """The books of one split, in the order of the file."""
    return path.read_text(encoding="utf-8").split(BOOK_SEPARATOR)


def train_tokenizer(books: list[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer that can encode any text; id 0 is the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(books, trainer)
    return tokenizer


def encode_books(tokenizer: Tokenizer, books: list[str]) -> np.ndarray:
    """One stream of token ids, uint16; an end-of-text token before, between and after books."""
    end = np.array([tokenizer.token_to_id(EOS)], dtype=np.uint16)
    parts = [end]
    for book in books:
        parts += [np.array(tokenizer.encode(book).ids, dtype=np.uint16), end]
    return np.concatenate(parts)


def prepare_data(books: Path, work: Path, vocabulary: int) -> Data:
    """The encoded books, made once and then read from the work folder.

    Raises:
        SystemExit: The work folder was made from other books or another vocabulary.
    """
    texts = {split: books / f"{split}.txt" for split in SPLITS}
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in texts.items()}
    fingerprint = {"vocabulary": vocabulary, "sha256": digests}
    record = work / "data.json"
    if not record.exists():
        tokenizer = train_tokenizer(read_books(texts["train"]), vocabulary)
        tokenizer.save(str(work / "tokenizer.json"))
        for split, path in texts.items():
            encode_books(tokenizer, read_books(path)).tofile(work / f"{split}.bin")
        # Written last: its presence says that everything above is whole.
        write_text(record, json.dumps(fingerprint, indent=2) + "\n")
    elif json.loads(record.read_text()) != fingerprint:
        raise SystemExit(f"{work}: made from other books or another vocabulary; use a new --work")
    return Data(
        tokenizer=Tokenizer.from_file(str(work / "tokenizer.json")),
        tokens={s: np.memmap(work / f"{s}.bin", dtype=np.uint16, mode="r") for s in SPLITS},
        fingerprint=fingerprint,
    )


class Windows:
    """Training sequences in a seeded order that is a pure function of their number.

    In every epoch the stream is cut into windows from another offset and they are shuffled, so
    the position in the data is one integer and resuming is exact.

    Args:
        tokens: The stream, uint16.
        length: Positions a sequence trains on; it holds one token more, the last target.
        seed: Seed of the order.
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int) -> None:
        self.tokens, self.length, self.seed = tokens, length, seed
        self.per_epoch = (len(tokens) - length) // length
        if self.per_epoch < 1:
            raise SystemExit(f"train.txt is too short for sequences of {length} tokens")
        self.epoch, self.starts = -1, np.empty(0, dtype=np.int64)

    def batch(self, first: int, count: int) -> Tensor:
        """Sequences number `first` ... `first + count - 1`, int64 of shape (count, length + 1)."""
        rows = [self._start(number) for number in range(first, first + count)]
        stacked = np.stack([self.tokens[at : at + self.length + 1] for at in rows])
        return torch.from_numpy(stacked.astype(np.int64))

    def _start(self, number: int) -> int:
        epoch, index = divmod(number, self.per_epoch)
        if epoch != self.epoch:
            order = np.random.default_rng([self.seed, epoch])
            offset = order.integers(self.length)
            self.starts = order.permutation(self.per_epoch) * self.length + offset
            self.epoch = epoch
        return int(self.starts[index])


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
