"""Log-likelihoods of windows against plain computations."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

import tiny_models
from boomerang import Family, LayerMap
from boomerang.errors import ResultsError
from boomerang.evaluate import perplexity
from boomerang.evaluate.documents import Text, cut_windows, prepare, read_documents
from boomerang.evaluate.members import evaluate_family
from boomerang.evaluate.perplexity import fit_window, score_text
from boomerang.student import cut

VOCAB = 11


class Bigram(torch.nn.Module):
    """Predicts the next token from the last one by a table: windows and batches cannot matter."""

    device = torch.device("cpu")

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.calls: list[tuple[int, ...]] = []

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool
    ) -> Any:
        assert not use_cache
        assert not torch.is_grad_enabled()
        self.calls.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.table[input_ids])


def _text(documents: list[list[int]], window: int, stride: int) -> Text:
    windows = [w for document in documents for w in cut_windows(document, window, stride)]
    return Text(tuple(windows), num_bytes=100)


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=40), min_size=1, max_size=5),
    st.integers(1, 12),
    st.data(),
)
def test_sums_are_those_of_a_model_that_sees_one_token(
    documents: list[list[int]], window: int, data: st.DataObject
) -> None:
    text = _text(documents, window, data.draw(st.integers(1, window)))
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    scores = score_text(Bigram(table), text, batch_size=data.draw(st.integers(1, 6)))  # type: ignore[arg-type]
    log_probs = torch.log_softmax(table, dim=-1)
    expected = -sum(float(log_probs[a, b]) for document in documents for a, b in pairwise(document))
    assert scores.nll.sum() == pytest.approx(expected, rel=1e-5)
    assert scores.tokens.sum() == sum(max(0, len(document) - 1) for document in documents)


def test_nll_is_given_window_by_window_in_the_order_of_the_text() -> None:
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    text = _text([[1, 2, 3], [4, 5, 6, 7, 8, 9], [2, 1]], window=4, stride=2)
    together = score_text(Bigram(table), text, batch_size=3)  # type: ignore[arg-type]
    alone = [
        score_text(Bigram(table), Text((window,), 1)).nll[0]  # type: ignore[arg-type]
        for window in text.windows
    ]
    np.testing.assert_allclose(together.nll, alone, rtol=1e-6)


def test_the_longest_windows_go_first() -> None:
    model = Bigram(torch.zeros(VOCAB, VOCAB))
    steps: list[int] = []
    text = _text([[1, 2], [1] * 9, [1] * 5, [1] * 4], window=8, stride=8)
    score_text(model, text, batch_size=2, advance=steps.append)  # type: ignore[arg-type]
    assert model.calls == [(2, 8), (2, 3)]
    assert steps == [2, 2]


def test_chunked_log_softmax_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    text = _text([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]], window=9, stride=9)
    whole = score_text(Bigram(table), text)  # type: ignore[arg-type]
    monkeypatch.setattr(perplexity, "_LOGITS", 4 * VOCAB)
    np.testing.assert_array_equal(score_text(Bigram(table), text).nll, whole.nll)  # type: ignore[arg-type]


def test_log_likelihoods_that_are_not_finite_are_refused() -> None:
    table = torch.full((VOCAB, VOCAB), math.nan)
    with pytest.raises(ResultsError, match="not finite"):
        score_text(Bigram(table), _text([[1, 2, 3]], 4, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "qwen3_moe"])
def test_equals_the_models_own_loss_where_the_document_fits(name: str) -> None:
    model = tiny_models.tiny_model(name, num_layers=3)
    tokens = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=tokens, labels=tokens).loss.item()
    short = tokens[0, :17].tolist()
    text = _text([tokens[0].tolist(), short], window=64, stride=32)
    scores = score_text(model, text)
    assert scores.nll[0] / 39 == pytest.approx(expected, rel=1e-5)
    # The second document was padded to the first one's length: alone it scores the same.
    assert scores.nll[1] == pytest.approx(
        score_text(model, _text([short], 64, 32)).nll[0], rel=1e-5
    )


def test_windows_are_scored_with_their_own_context_only() -> None:
    model = tiny_models.tiny_model("qwen3", num_layers=3)
    document = torch.randint(3, 97, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    scores = score_text(model, _text([document], window=16, stride=5), batch_size=4)
    expected = []
    with torch.no_grad():
        for w in cut_windows(document, 16, 5):
            logits = model(input_ids=torch.tensor([w.inputs])).logits[0]
            log_probs = torch.log_softmax(logits, dim=-1)[-len(w.targets) :]
            expected.append(-log_probs.gather(1, torch.tensor(w.targets)[:, None]).sum().item())
    np.testing.assert_allclose(scores.nll, expected, rtol=1e-5)


def test_a_window_is_never_larger_than_the_model() -> None:
    assert fit_window(tiny_models.tiny_config("gpt2"), 2048) == 64
    assert fit_window(tiny_models.tiny_config("llama"), 48) == 48
    assert fit_window(PretrainedConfig(), 2048) == 2048


def test_a_real_model_predicts_the_text_it_was_trained_for(
    stories: Path, stories_text: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    documents = read_documents([stories_text])[:60]
    text = prepare(documents, AutoTokenizer.from_pretrained(stories), window=512)
    scores = score_text(model, text)
    # Its training ended at 1.30 nats a token on stories held out.
    assert 3.0 < scores.perplexity.value < 4.5
    assert 0.6 < scores.bits_per_byte.value < 1.2
    assert scores.perplexity.stderr is not None
    assert 0.02 < scores.perplexity.stderr < 0.3


def test_a_live_family_in_training_is_measured_and_left_as_it_is(stories: Path) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(stories).eval()
    layers = LayerMap((0, 2, 4), 5)
    student = cut(teacher, layers).train()
    family = Family(teacher, student, layers)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    story = "Once upon a time, there was a little girl named Lily. She had a red ball."
    scored = evaluate_family(family, [story, story[:40]], tokenizer, window=16)
    assert student.training and not teacher.training
    assert [score.member for score in scored] == list(layers.members(family.order))
    assert [score.parameters for score in scored] == [169152, 214592, 260032]
    assert [score.bytes for score in scored] == [4 * 169152, 4 * 214592, 4 * 260032]
    values = [score.scores.perplexity.value for score in scored]
    assert values[0] > values[1] > values[2]

    chosen = evaluate_family(
        family, [story, story[:40]], tokenizer, members=[2, layers.member(blocks=[1])], window=16
    )
    assert chosen[0].scores.perplexity.value == values[2]
    assert chosen[1].member.patched == (1,)
