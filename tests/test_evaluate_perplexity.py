"""Log-likelihoods of windows against plain computations."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

import tiny_models
from boomerang import Family, LayerMap
from boomerang.evaluate.measure import measure
from boomerang.evaluate.options import Measure
from boomerang.evaluate.perplexity import Scores, fit_window
from boomerang.evaluate.scorer import Scorer
from boomerang.student import cut
from boomerang.text.documents import read_documents
from boomerang.text.windows import Text, cut_windows, prepare


def _text(documents: list[list[int]], window: int, stride: int) -> Text:
    windows = [w for document in documents for w in cut_windows(document, window, stride)]
    return Text(tuple(windows), num_bytes=100)


def _score(model: PreTrainedModel, text: Text, batch_size: int | None = None) -> Scores:
    """The scores of a teacher whose student keeps every layer: a family of one."""
    count = model.config.num_hidden_layers
    family = Family(model, model, LayerMap(range(count), count))
    longest = max(len(window.inputs) for window in text.windows)
    scorer = Scorer(family, family.layers.members(), max_length=longest, batch_size=batch_size)
    nll = np.full(len(text.windows), np.nan)
    for scored in scorer.run([window.request for window in text.windows]):
        nll[scored.requests] = -scored.log_likelihood[0]
    return Scores.of(text, nll)


@settings(max_examples=20)
@given(
    st.lists(st.lists(st.integers(3, 96), max_size=40), min_size=1, max_size=4).filter(
        lambda documents: any(len(document) > 1 for document in documents)
    ),
    st.integers(1, 12),
    st.data(),
)
def test_sums_are_those_of_a_model_that_sees_one_token(
    documents: list[list[int]], window: int, data: st.DataObject
) -> None:
    """Windows and batches cannot matter to a model without attention."""
    model = tiny_models.tiny_model("llama", num_layers=1)
    model.model.layers[0].self_attn.o_proj.weight.data.zero_()
    text = _text(documents, window, data.draw(st.integers(1, window)))
    scores = _score(model, text, batch_size=data.draw(st.integers(1, 6)))
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.arange(97)[:, None]).logits[:, 0], dim=-1)
    expected = -sum(float(log_probs[a, b]) for document in documents for a, b in pairwise(document))
    assert scores.nll.sum() == pytest.approx(expected, rel=1e-5)
    assert scores.tokens.sum() == sum(max(0, len(document) - 1) for document in documents)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "qwen3_moe"])
def test_equals_the_models_own_loss_where_the_document_fits(name: str) -> None:
    model = tiny_models.tiny_model(name, num_layers=3)
    tokens = torch.randint(3, 97, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=tokens, labels=tokens).loss.item()
    short = tokens[0, :17].tolist()
    text = _text([tokens[0].tolist(), short], window=64, stride=32)
    scores = _score(model, text)
    assert scores.nll[0] / 39 == pytest.approx(expected, rel=1e-5)
    # The second document was padded to the first one's length: alone it scores the same.
    assert scores.nll[1] == pytest.approx(_score(model, _text([short], 64, 32)).nll[0], rel=1e-5)


def test_windows_are_scored_with_their_own_context_only() -> None:
    model = tiny_models.tiny_model("qwen3", num_layers=3)
    document = torch.randint(3, 97, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    scores = _score(model, _text([document], window=16, stride=5), batch_size=4)
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
    assert fit_window(PretrainedConfig(num_hidden_layers=2), 2048) == 2048


def test_a_real_model_predicts_the_text_it_was_trained_for(
    stories: Path, stories_text: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(stories).eval()
    documents = read_documents([stories_text])[:60]
    text = prepare(documents, AutoTokenizer.from_pretrained(stories), window=512)
    scores = _score(model, text)
    # Its training ended at 1.30 nats a token on stories held out.
    assert 3.0 < scores.perplexity.value < 4.5
    assert 0.6 < scores.bits_per_byte.value < 1.2
    assert scores.perplexity.stderr is not None
    assert 0.02 < scores.perplexity.stderr < 0.3


def test_a_live_family_in_training_is_measured_and_left_as_it_is(
    stories: Path, tmp_path: Path
) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(stories).eval()
    layers = LayerMap((0, 2, 4), 5)
    student = cut(teacher, layers).train()
    family = Family(teacher, student, layers)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    story = "Once upon a time, there was a little girl named Lily. She had a red ball."
    (tmp_path / "text.txt").write_text(f"{story}<|endoftext|>{story[:40]}")
    what = Measure(texts=(str(tmp_path / "text.txt"),), window=16)
    hashes: dict[str, Any] = {"teacher_hash": "t", "student_hash": "s"}
    rows = measure(family, tmp_path / "out", what, tokenizer, **hashes)
    assert student.training and not teacher.training
    measured = [row for row in rows if row.metric == "perplexity"]
    assert [row.member for row in measured] == [(), (0,), (0, 1, 2)]
    assert [row.parameters for row in measured] == [169152, 214592, 260032]
    assert [row.bytes for row in measured] == [4 * 169152, 4 * 214592, 4 * 260032]
    assert measured[0].value > measured[1].value > measured[2].value

    chosen = measure(
        family, tmp_path / "other", what, tokenizer,
        members=[2, layers.member(blocks=[1])], **hashes,
    )  # fmt: skip
    found = {row.member: row.value for row in chosen if row.metric == "perplexity"}
    assert found[0, 1, 2] == measured[2].value and (1,) in found
