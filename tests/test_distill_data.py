from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang.distill.data import Rows, collate, read_rows
from boomerang.distill.losses import IGNORED
from boomerang.distill.recipe import Data
from boomerang.documents import SEPARATOR, read_documents
from boomerang.errors import DataError
from boomerang.evaluate import documents as measuring
from boomerang.loading import load_tokenizer

TEXTS = (
    "Once upon a time there was a cat.",
    "The dog ran.",
    "Lily saw a big red ball in the park.",
)


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> Any:
    return load_tokenizer(stories)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(f"\n{SEPARATOR}\n".join(TEXTS) + f"\n{SEPARATOR}\n")
    return str(path)


def documents(tokenizer: Any) -> list[list[int]]:
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]


def test_packed_rows_hold_the_documents_and_no_target_crosses_them(
    tokenizer: Any, text: str
) -> None:
    expected = documents(tokenizer)
    data = Data(files=[text], sequence_length=7)
    rows, held_out = read_rows(data, tokenizer)
    assert held_out is None
    tokens = torch.cat([row["input_ids"] for row in rows]).tolist()
    stream = [token for document in expected for token in document]
    assert tokens == stream[: len(stream) // 7 * 7]
    starts = {0, len(expected[0]), len(expected[0] + expected[1])}
    position = 0
    for number, row in enumerate(rows):
        assert set(row) == {"input_ids", "labels", "position_ids"}
        for place in range(7):
            index = 7 * number + place
            first = index in starts or place == 0
            position = 0 if first else position + 1
            label = IGNORED if first else tokens[index]
            assert row["labels"][place] == label
            assert row["position_ids"][place] == position


def test_padded_rows_hold_one_document_each(tokenizer: Any, text: str) -> None:
    data = Data(files=[text], sequence_length=12, packing=False)
    rows, _ = read_rows(data, tokenizer)
    assert len(rows) == len(TEXTS)
    for row, document in zip(rows, documents(tokenizer), strict=True):
        length = min(len(document), 12)
        assert row["attention_mask"].tolist() == [1] * length + [0] * (12 - length)
        assert row["input_ids"][:length].tolist() == document[:length]
        assert row["labels"].tolist() == [IGNORED, *document[1:length]] + [IGNORED] * (12 - length)


def test_the_reference_never_predicts_the_end_of_a_document(tokenizer: Any, text: str) -> None:
    data = Data(files=[text], sequence_length=64, packing=False)
    rows, _ = read_rows(data, tokenizer, eos_is_no_target=True)
    for row, document in zip(rows, documents(tokenizer), strict=True):
        assert row["labels"][len(document) - 2] == document[-2]
        assert row["labels"][len(document) - 1] == IGNORED


def test_training_and_measuring_have_the_same_documents(tokenizer: Any, text: str) -> None:
    assert read_documents([text]) == measuring.read_documents([text]) == list(TEXTS)
    rows, _ = read_rows(Data(files=[text], sequence_length=64, packing=False), tokenizer)
    assert len(rows) == len(TEXTS)


def test_held_out_rows_are_the_last_ones(tokenizer: Any, text: str) -> None:
    whole, _ = read_rows(Data(files=[text], sequence_length=5), tokenizer)
    rows, held_out = read_rows(Data(files=[text], sequence_length=5, held_out=2), tokenizer)
    assert held_out is not None
    assert (len(rows), len(held_out)) == (len(whole) - 2, 2)
    assert torch.equal(held_out[0]["input_ids"], whole[len(whole) - 2]["input_ids"])


def test_a_batch_without_inner_beginnings_needs_no_positions() -> None:
    plain = Rows(*_arrays([[0, 1, 2, 3], [0, 1, 2, 3]]))
    broken = Rows(*_arrays([[0, 1, 2, 3], [0, 1, 0, 1]]))
    assert "position_ids" not in collate([plain[0], plain[1]])
    assert collate([broken[0], broken[1]])["position_ids"].tolist() == broken.positions.tolist()


def _arrays(positions: list[list[int]]) -> tuple[Any, Any]:
    array = torch.tensor(positions, dtype=torch.int32).numpy()
    return array + 5, array


def test_text_that_cannot_be_used_is_refused(tokenizer: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"missing\.txt"):
        read_rows(Data(files=[str(tmp_path / "missing.txt")], sequence_length=4), tokenizer)
    with pytest.raises(DataError, match="0 rows of 4096"):
        read_rows(Data(files=[text], sequence_length=4096), tokenizer)
    with pytest.raises(DataError, match="held out"):
        read_rows(Data(files=[text], sequence_length=32, held_out=50), tokenizer)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match="byte 3"):
        read_rows(Data(files=[str(binary)], sequence_length=4), tokenizer)
