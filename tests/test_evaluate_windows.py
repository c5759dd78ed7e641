"""Strided windows: every token is scored once, with as much context as promised."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from boomerang.errors import DataError
from boomerang.text.documents import read_documents
from boomerang.text.windows import cut_windows, prepare


@st.composite
def _cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Length of a document, window, stride."""
    window = draw(st.integers(1, 40))
    return draw(st.integers(0, 150)), window, draw(st.integers(1, window))


@given(_cuts())
def test_every_token_but_the_first_is_scored_once(cut: tuple[int, int, int]) -> None:
    length, window, stride = cut
    windows = cut_windows(range(length), window, stride)
    assert [t for w in windows for t in w.targets] == list(range(1, length))


@given(_cuts())
def test_windows_fit_and_hold_the_promised_context(cut: tuple[int, int, int]) -> None:
    length, window, stride = cut
    for w in cut_windows(range(length), window, stride):
        # The token ids are positions here, so they tell where the window lies.
        assert list(w.inputs) == list(range(w.inputs[0], w.targets[-1]))
        assert len(w.inputs) <= window
        for j, target in enumerate(w.targets):
            context = w.inputs[: w.start + j + 1]
            assert context[-1] == target - 1
            assert len(context) >= min(target, window - stride)


def test_a_document_that_fits_is_one_window() -> None:
    (window,) = cut_windows(range(11), 10, 3)
    assert window.inputs == tuple(range(10))
    assert window.targets == tuple(range(1, 11))


@pytest.mark.parametrize(("window", "stride"), [(8, 0), (8, 9), (0, None), (-3, None)])
def test_windows_that_cannot_be_are_refused(window: int, stride: int | None) -> None:
    with pytest.raises(DataError, match="stride"):
        cut_windows(range(20), window, stride)


def test_documents_are_files_or_parts_of_them(tmp_path: Path) -> None:
    one, several = tmp_path / "one.txt", tmp_path / "several.txt"
    one.write_text("a\nb\n")
    several.write_text("c\n<|endoftext|>\nd\n\n<|endoftext|>\n")
    assert read_documents([one, several]) == ["a\nb", "c", "d"]


def test_files_without_usable_text_are_refused(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt: is not UTF-8"):
        read_documents([latin])
    empty = tmp_path / "empty.txt"
    empty.write_text("\n<|endoftext|>\n")
    with pytest.raises(DataError, match=r"empty\.txt: there is no text"):
        read_documents([empty])
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        read_documents([tmp_path / "gone.txt"])


def test_documents_begin_with_the_first_special_token(stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    text = prepare(["One day", "caf\u00e9"], tokenizer, window=64)
    for window in text.windows:
        assert window.inputs[0] == tokenizer.bos_token_id
    # What the model was trained on: this tokenizer itself puts the token first.
    whole = (*text.windows[0].inputs, text.windows[0].targets[-1])
    assert list(whole) == tokenizer("One day")["input_ids"]
    assert text.num_bytes == 7 + 5

    tokenizer.bos_token = None
    text = prepare(["One day"], tokenizer, window=64)
    assert text.windows[0].inputs[0] == tokenizer.eos_token_id


def test_the_hash_tells_texts_and_windows_apart(stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    story = "Once upon a time there was a little girl who had a red ball."
    base = prepare([story], tokenizer, window=16)
    assert base.hash == prepare([story], tokenizer, window=16, stride=8).hash
    others = [
        prepare([story + "."], tokenizer, window=16),
        prepare([story], tokenizer, window=8),
        prepare([story], tokenizer, window=16, stride=4),
        prepare([story[:30], story[30:]], tokenizer, window=16),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 5
