"""Scoring members in one pass against each of them alone, and what it costs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTNeoConfig,
    MambaConfig,
    MptConfig,
    PretrainedConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
)

from boomerang import Family, LayerMap, Member
from boomerang.evaluate import scorer as scoring
from boomerang.evaluate.batches import Batch, make_batch
from boomerang.evaluate.probes import branching_row, keeps_branches_apart
from boomerang.evaluate.request_rows import Request, encode, lay_out
from boomerang.evaluate.scorer import Scored, Scorer, target_log_probs
from boomerang.evaluate.shared_layers import Visit, final_states, walk
from boomerang.models.parts import layer_stack
from boomerang.models.runner import Runner
from boomerang.student import cut
from tiny_models import ARCHITECTURES, NOISE, tiny_model, tiny_pair

MAX_LENGTH = 40
VOCAB = 97


def make_requests(vocab: int = VOCAB) -> list[Request]:
    """Contexts with choices, below and above all windows; whole sentences; a request twice."""
    generator = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [generator.randrange(3, vocab) for _ in range(count)]

    requests: list[Request] = []
    for context in (tokens(4), tokens(4), tokens(12), tokens(30), tokens(60)):
        requests += [(context, tokens(length)) for length in (1, 1, 3, 4)]
    requests += [([1], tokens(length)) for length in (2, 9, 17, MAX_LENGTH)]
    return [*requests, requests[2]]


REQUESTS = make_requests()


@torch.no_grad()
def alone(
    model: PreTrainedModel, requests: Iterable[Request], max_length: int = MAX_LENGTH
) -> tuple[list[float], list[bool]]:
    """The plain way: one model, one request at a time."""
    sums, greedy = [], []
    for request in requests:
        inputs, targets = encode(request, max_length)
        wanted = torch.tensor(targets)
        logits = model(torch.tensor([inputs])).logits[0, -len(targets) :]
        sums.append(logits.double().log_softmax(-1).gather(1, wanted[:, None]).sum().item())
        greedy.append(bool((logits.argmax(-1) == wanted).all()))
    return sums, greedy


def together(scorer: Scorer, requests: Sequence[Request]) -> tuple[Any, Any]:
    """Log-likelihoods and greediness of all requests, `[models, requests]`."""
    shape = (len(scorer.models), len(requests))
    sums, greedy = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    for scored in scorer.run(requests):
        assert np.isnan(sums[:, scored.requests]).all()
        sums[:, scored.requests] = scored.log_likelihood
        greedy[:, scored.requests] = scored.greedy
    return sums, greedy


def check(
    family: Family,
    members: Sequence[Member],
    requests: Sequence[Request] = REQUESTS,
    max_length: int = MAX_LENGTH,
) -> Scorer:
    scorer = Scorer(family, members, max_length=max_length)
    sums, greedy = together(scorer, requests)
    for index, member in enumerate(members):
        expected, expected_greedy = alone(family.model(member).eval(), requests, max_length)
        np.testing.assert_allclose(sums[index], expected, atol=1e-4, rtol=0)
        assert greedy[index].tolist() == expected_greedy
    return scorer


def tiny_family(name: str) -> tuple[Family, list[Member]]:
    """A family, and members of both orders and of none that share beginnings of all lengths."""
    teacher, student, layers = tiny_pair(name)
    chosen = ((), (3,), (2, 3), (0,), (0, 1), (1, 3), (0, 1, 2, 3))
    return Family(teacher, student, layers), [layers.member(blocks=blocks) for blocks in chosen]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_members_score_as_each_of_them_alone(name: str) -> None:
    family, members = tiny_family(name)
    scorer = check(family, members)
    # Where layers have a window, only what fits there shares its context.
    window = 8 if name in ("mistral", "qwen2", "gemma3_text") else MAX_LENGTH
    rows = [row for row in scorer._lay_out(REQUESTS) if row.branched]
    assert rows
    assert all(row.positions.max() < window for row in rows)


def test_every_golden_member_scores_as_alone(golden_pair: Path) -> None:
    family = Family.from_pretrained(golden_pair / "teacher", golden_pair / "student")
    vocab = family.teacher.config.vocab_size
    requests = make_requests(vocab)[::2]
    for order in ("last-to-first", "first-to-last"):
        check(family, family.layers.members(order), requests)


def test_greedy_continuations_are_told() -> None:
    family, members = tiny_family("llama")
    model = family.model(members[1]).eval()
    prompt = torch.tensor([REQUESTS[0][0]])
    best = model.generate(prompt, max_new_tokens=5, do_sample=False, eos_token_id=None)
    continuation = best[0, prompt.shape[1] :].tolist()
    scorer = Scorer(family, members[1:2], max_length=MAX_LENGTH)
    wrong = [*continuation[:4], (continuation[4] + 1) % VOCAB]
    context = REQUESTS[0][0]
    _, greedy = together(scorer, [(context, continuation), (context, wrong)])
    assert greedy.tolist() == [[True, False]]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("branched", [False, True], ids=["plain", "branched"])
def test_states_are_bitwise_those_of_a_whole_pass(name: str, branched: bool) -> None:
    family, members = tiny_family(name)
    models = [family.model(member).eval() for member in members]
    runners = [Runner(model) for model in models]
    stacks = [list(layer_stack(model)) for model in models]
    limit = MAX_LENGTH if branched else 0
    rows = lay_out(REQUESTS, max_length=MAX_LENGTH, branch_limit=limit, width=32)
    batch = make_batch(
        [row for row in rows if row.branched == branched], torch.device("cpu"), torch.float32
    )
    visits = walk([member.sources for member in members])
    assert sum(visit.skip for visit in visits) > 8
    apart = [Visit(index) for index in range(len(members))]
    with torch.no_grad():
        expected = dict(final_states(runners, apart, batch.inputs))
        found = dict(final_states(runners, visits, batch.inputs))
    assert found.keys() == expected.keys() == set(range(len(members)))
    for index in found:
        assert torch.equal(found[index], expected[index])
    # The models are as they were.
    assert not any("forward" in vars(module) for model in models for module in model.modules())
    assert [list(layer_stack(model)) for model in models] == stacks


def test_layers_and_head_run_no_more_often_than_they_must() -> None:
    family, members = tiny_family("qwen3")
    scorer = Scorer(family, members, max_length=MAX_LENGTH, batch_size=3)
    list(scorer.run(REQUESTS))  # the probe is behind us
    ran: list[int] = []
    read: list[int] = []
    for model in scorer.models:
        for layer in layer_stack(model):
            layer.mlp.register_forward_hook(lambda *_: ran.append(1))
        model.lm_head.register_forward_hook(lambda _, args, __: read.append(args[0].shape[1]))
    batches = list(scorer.run(REQUESTS))
    paths = {member.sources[:depth] for member in members for depth in range(1, 9)}
    passes = len({path for path in paths if path})
    assert passes < sum(member.num_layers for member in members)
    assert len(ran) == passes * len(batches)
    rows = scorer._lay_out(REQUESTS)
    places = {
        (i, int(place)) for i, row in enumerate(rows) for r in row.reads for place in r.places
    }
    assert len(places) < sum(len(continuation) for _, continuation in REQUESTS)
    assert sum(read) == len(places) * len(members)


def _random_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            noise = NOISE * torch.randn(parameter.shape)
            parameter.data = (parameter if parameter.ndim == 1 else 0) + noise
    return model.to(dtype).eval()


SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
}  # fmt: skip
SEE_ELSEWHERE: dict[str, PretrainedConfig] = {
    "alibi, by the mask": BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=4, n_head=4),
    "alibi, by the place": MptConfig(vocab_size=VOCAB, d_model=32, n_layers=4, n_heads=4),
    "alibi": FalconConfig(**SHAPE, alibi=True),
    "recurrent": MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2),
    "recurrent in part": RecurrentGemmaConfig(**SHAPE, intermediate_size=48, lru_width=32),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", SEE_ELSEWHERE)
def test_models_that_do_not_keep_branches_apart(kind: str, dtype: torch.dtype) -> None:
    row = branching_row(VOCAB, MAX_LENGTH)
    assert row is not None
    assert not keeps_branches_apart(Runner(_random_model(SEE_ELSEWHERE[kind], dtype)), row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_models_that_keep_branches_apart(attention: str, dtype: torch.dtype) -> None:
    row = branching_row(VOCAB, MAX_LENGTH)
    assert row is not None
    assert branching_row(VOCAB, 1) is None
    for name in ("llama", "gpt2", "qwen3_moe"):
        model = tiny_model(name).to(dtype)
        model.set_attn_implementation(attention)
        assert keeps_branches_apart(Runner(model), row), name


def _family(config: PretrainedConfig) -> tuple[Family, list[Member]]:
    teacher = _random_model(config)
    layers = LayerMap((0, 2), 4)
    student = cut(teacher, layers)
    return Family(teacher, student, layers), [layers.member(blocks=b) for b in ((), (0,), (1,))]


def test_without_branches_the_scores_are_the_same() -> None:
    scorer = check(*_family(SEE_ELSEWHERE["alibi, by the mask"]))
    assert scorer._branch_limit == 0


def test_a_window_that_no_config_key_shows_is_found_in_a_long_row() -> None:
    config = GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=64,
        max_position_embeddings=128,
    )
    family, members = _family(config)
    context = list(range(3, 40))
    choices = [(context, [i, i + 1, *range(80, 90)]) for i in (40, 50, 60, 70)]
    scorer = Scorer(family, members, max_length=60)
    expected = [alone(family.model(member).eval(), choices, 60)[0] for member in members]
    # Rows of two branches fit into the window, and a row of four does so no more.
    for count, limit in ((2, 60), (4, 0)):
        sums, _ = together(scorer, choices[:count])
        assert scorer._branch_limit == limit
        np.testing.assert_allclose(sums, np.array(expected)[:, :count], atol=1e-4, rtol=0)


def test_layers_that_hand_over_more_than_their_output_are_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last layer adds what the first one has put aside for it."""
    family, members = tiny_family("llama")
    make = family.model

    def with_a_side_way(member: Member) -> PreTrainedModel:
        model = make(member)
        aside: list[torch.Tensor] = []
        model.aside = aside
        first, *_, last = layer_stack(model)
        plain_first, plain_last = first.forward, last.forward

        def put(*args: Any, **kwargs: Any) -> Any:
            aside.append(plain_first(*args, **kwargs))
            return aside[-1]

        first.forward = put
        last.forward = lambda *args, **kwargs: (
            plain_last(*args, **kwargs) + (aside.pop() if aside else 0)
        )
        return model

    monkeypatch.setattr(family, "model", with_a_side_way)
    scorer = check(family, members)
    assert all(visit.skip == 0 for visit in scorer._visits)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    family, members = tiny_family("llama")
    sizes: list[int] = []
    plain = Scorer._score

    def limited(self: Scorer, batch: Batch) -> Scored:
        sizes.append(batch.size)
        if batch.size > 130:
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, batch)

    monkeypatch.setattr(Scorer, "_score", limited)
    scorer = check(family, members[:2])
    large = [index for index, size in enumerate(sizes) if size > 130]
    assert large
    assert large[-1] < 3
    assert len(sizes) > 5
    scorer = Scorer(family, members[:2], max_length=MAX_LENGTH, batch_size=8)
    assert not np.isnan(together(scorer, REQUESTS)[0]).any()
    assert 1 <= scorer.batch_size < 4
    # A single row cannot be made smaller.
    monkeypatch.setattr(Scorer, "_score", lambda *_: limited(scorer, batch_of(40 * 4)))
    with pytest.raises(torch.OutOfMemoryError):
        together(scorer, REQUESTS[-2:-1])


def batch_of(tokens: int) -> Batch:
    (row,) = lay_out([([1], [1] * tokens)], max_length=tokens, branch_limit=0, width=32)
    return make_batch([row], torch.device("cpu"), torch.float32)


def test_a_batch_size_counts_rows_and_changes_no_score() -> None:
    family, members = tiny_family("gemma3_text")
    expected, _ = together(Scorer(family, members, max_length=MAX_LENGTH), REQUESTS)
    scorer = Scorer(family, members, max_length=MAX_LENGTH, batch_size=2)
    assert max(len(scored.requests) for scored in scorer.run(REQUESTS[20:24])) == 2
    np.testing.assert_allclose(together(scorer, REQUESTS)[0], expected, atol=1e-4)


def test_log_probs_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix, states = torch.randn(5, 11, generator=generator), torch.randn(7, 5, generator=generator)
    rows, targets = np.array([0, 1, 1, 3, 4, 5, 6, 6]), np.array([3, 0, 1, 2, 5, 8, 10, 4])
    seen: list[int] = []

    def head(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return part @ matrix

    logits = states @ matrix
    expected = logits.log_softmax(-1)[rows, targets]
    for bound, calls in ((1000, [7]), (3 * 11, [3, 3, 1]), (1, [1] * 7)):
        monkeypatch.setattr(scoring, "_LOGITS_ON_CPU", bound)
        seen.clear()
        found, greedy = target_log_probs(head, states, rows, targets, 11)
        torch.testing.assert_close(found, expected)
        assert greedy.tolist() == (logits.argmax(-1)[rows] == torch.from_numpy(targets)).tolist()
        assert seen == calls


def test_of_equal_logits_the_first_is_the_greedy_one() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    rows, targets = np.array([0, 0, 1, 1]), np.array([1, 2, 0, 2])
    found, greedy = target_log_probs(torch.Tensor.clone, logits, rows, targets, 3)
    assert greedy.tolist() == [True, False, True, False]
    torch.testing.assert_close(found, logits.log_softmax(-1)[rows, targets])


def test_half_precision_is_scored_in_single_precision() -> None:
    teacher, student, layers = tiny_pair("llama")
    family = Family(teacher.bfloat16(), student.bfloat16(), layers)
    members = layers.members()
    scorer = Scorer(family, members, max_length=MAX_LENGTH)
    sums, _ = together(scorer, REQUESTS[:8])
    for index, member in enumerate(members):
        expected, _ = alone(family.model(member), REQUESTS[:8])
        np.testing.assert_allclose(sums[index], expected, rtol=0.05, atol=0.1)
    assert scorer._branch_limit == MAX_LENGTH
