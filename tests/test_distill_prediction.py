"""CE and KL in chunks of tokens against all logits at once in fp64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from boomerang.distill import prediction_loss as prediction
from boomerang.distill.losses import IGNORED
from boomerang.distill.prediction_loss import Prediction, Targets
from boomerang.distill.recipe import Loss
from boomerang.models.head import Head
from tensor_sizes import Sizes
from test_head import make_head
from tiny_models import tiny_model

WIDTH = 32
Gradients = dict[str, Tensor]


def some_states(rows: int = 3, length: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, WIDTH, generator=generator, dtype=torch.float64)


def some_labels(rows: int = 3, length: int = 9) -> Tensor:
    """With gaps, a row that ends early and one that has a single target."""
    labels = torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(5))
    labels[0, 3] = IGNORED
    labels[1, 5:] = IGNORED
    labels[2, 2:] = IGNORED
    return labels


def naive(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    states: Tensor,
    teacher_states: Tensor,
    labels: Tensor,
    loss: Loss,
    everywhere: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `Prediction.sums`, all logits at once and by autograd."""
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
    looked_at = torch.ones_like(following) > 0 if everywhere else following != IGNORED
    logits = Head(student)(states.flatten(0, 1))
    reference = Head(teacher)(teacher_states.flatten(0, 1))
    ce = F.cross_entropy(logits, following, ignore_index=IGNORED, reduction="sum")
    p = (reference[looked_at] / loss.temperature).softmax(-1)
    q = (logits[looked_at] / loss.temperature).softmax(-1)
    kl = loss.temperature**2 * (p * (p.log() - q.log())).sum()
    targets, count = int((following != IGNORED).sum()), int(looked_at.sum())
    return loss.ce * ce + loss.kl * kl * max(targets, 1) / max(count, 1), ce, kl


def gradients_of(model: PreTrainedModel, states: Tensor) -> Gradients:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert states.grad is not None
    return {**found, "states": states.grad}


def compare(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    loss: Loss,
    *,
    labels: Tensor | None = None,
    everywhere: bool = False,
    tokens: int | None = None,
    dtype: torch.dtype = torch.float64,
    autocast: bool = False,
) -> list[tuple[tuple[Tensor, ...], Gradients]]:
    """Values and gradients: in chunks in `dtype`, then the naive ones in fp64."""
    labels = some_labels() if labels is None else labels
    results = []
    for chunked in (True, False):
        own = dtype if chunked else torch.float64
        one, other = (copy.deepcopy(m).to(own) for m in (student, teacher))
        other.requires_grad_(False)
        states = some_states(*labels.shape).to(own).requires_grad_()
        teacher_states = some_states(*labels.shape, seed=1).to(own)
        if chunked:
            targets = Targets(labels, everywhere=everywhere)
            problem = Prediction(Head(one), targets, loss, (Head(other), teacher_states))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                values = problem.sums(states, tokens)
        else:
            values = naive(one, other, states, teacher_states, labels, loss, everywhere)
        # Divided as in a step, so that the backward pass has something to scale.
        (values[0] / 7).backward()
        results.append((values, gradients_of(one, states)))
    return results


def assert_close(results: Any, **tolerance: float) -> None:
    (values, gradients), (expected, wanted) = results
    for value, exact in zip(values, expected, strict=True):
        torch.testing.assert_close(value.double(), exact, **tolerance)
    # Parameters that the naive way leaves without a gradient have none of size either.
    for name in gradients.keys() | wanted.keys():
        exact = wanted.get(name, torch.zeros_like(gradients[name]).double())
        torch.testing.assert_close(gradients[name].double(), exact, **tolerance)


KINDS = ["llama", "gpt2", "soft-capping", "scaling", "division", "bias", "transform", "masked"]


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_equal_all_logits_at_once(kind: str, temperature: float, everywhere: bool) -> None:
    loss = Loss(ce=0.7, kl=0.4, temperature=temperature)
    student, teacher = make_head(kind), make_head(kind, seed=1)
    results = compare(student, teacher, loss, everywhere=everywhere, tokens=4)
    assert_close(results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("in_cache", [1, 250, 2**19])
@pytest.mark.parametrize("tokens", [1, 5, 10, 1000, None])
def test_the_size_of_the_chunks_does_not_matter(
    tokens: int | None, in_cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "_IN_CACHE", in_cache)
    student, teacher = tiny_model("llama", 2), tiny_model("llama", 2, seed=1)
    results = compare(student, teacher, Loss(ce=1, kl=1), tokens=tokens)
    assert_close(results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("weights", [{"ce": 0.0, "kl": 2.0}, {"ce": 2.0, "kl": 0.0}])
def test_either_term_alone(weights: dict[str, float]) -> None:
    student, teacher = tiny_model("qwen3", 2), tiny_model("qwen3", 2, seed=1)
    assert_close(compare(student, teacher, Loss(**weights)), rtol=1e-9, atol=1e-10)


def test_fp32_is_close_to_fp64() -> None:
    student, teacher = make_head("soft-capping"), make_head("soft-capping", seed=1)
    results = compare(student, teacher, Loss(ce=1, kl=1), tokens=4, dtype=torch.float32)
    assert_close(results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "soft-capping", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrix_products_in_bf16_losses_and_sums_in_fp32(kind: str, dtype: torch.dtype) -> None:
    student, teacher = make_head(kind), make_head(kind, seed=1)
    autocast = dtype == torch.float32
    results = compare(student, teacher, Loss(ce=1, kl=1), tokens=2, dtype=dtype, autocast=autocast)
    (values, gradients), (expected, wanted) = results
    assert {value.dtype for value in values} == {torch.float32}
    assert {gradient.dtype for gradient in gradients.values()} == {dtype}
    for value, exact in zip(values, expected, strict=True):
        assert value.item() == pytest.approx(exact.item(), rel=0.03)
    for name, exact in wanted.items():
        error = (gradients[name].double() - exact).norm() / exact.norm()
        assert error < 0.05, name


def test_a_batch_without_any_target_has_gradients_of_zero() -> None:
    """Other processes wait for them."""
    student, teacher = make_head("masked"), make_head("masked", seed=1)
    (values, gradients), _ = compare(
        student, teacher, Loss(ce=1, kl=1), labels=torch.full((2, 5), IGNORED)
    )
    assert [value.item() for value in values] == [0.0, 0.0, 0.0]
    trained = {name for name, _ in student.named_parameters() if "cls" in name or "word" in name}
    assert gradients.keys() == {*trained, "states"}
    assert not any(gradient.any() for gradient in gradients.values())


def test_all_positions_are_compared_even_if_none_has_a_target() -> None:
    student, teacher = make_head("masked"), make_head("masked", seed=1)
    labels = torch.full((2, 5), IGNORED)
    results = compare(student, teacher, Loss(ce=1, kl=1), labels=labels, everywhere=True)
    assert results[0][0][2] > 0
    assert_close(results, rtol=1e-9, atol=1e-10)


def test_a_frozen_head_takes_no_gradient_and_no_memory_for_one() -> None:
    student, teacher = tiny_model("llama", 2), tiny_model("llama", 2, seed=1)
    student.requires_grad_(False)
    results = compare(student, teacher, Loss(ce=1, kl=1), tokens=4)
    assert_close(results, rtol=1e-9, atol=1e-10)
    assert results[0][1].keys() == {"states"}
    states = some_states().float().requires_grad_()
    problem = Prediction(Head(student), Targets(some_labels()), Loss(ce=1, kl=0))
    with Sizes() as sizes:
        problem.sums(states, 4)[0].backward()
    assert sizes.largest < 97 * WIDTH


class _Adapted(nn.Linear):
    """Something that is no plain linear map any more."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) + 0.1 * states.sin() @ self.weight.T


def test_an_output_matrix_of_another_kind_is_left_to_autograd() -> None:
    models = []
    for seed in (0, 1):
        model = tiny_model("llama", 2, seed=seed)
        adapted = _Adapted(WIDTH, 97, bias=True)
        with torch.no_grad():
            adapted.weight.copy_(model.lm_head.weight)
        model.lm_head = adapted
        models.append(model)
    results = compare(*models, Loss(ce=1, kl=1), tokens=4)
    assert "lm_head.bias" in results[0][1]
    assert_close(results, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["llama", "soft-capping"])
def test_no_tensor_of_tokens_by_vocabulary_ever_exists(kind: str) -> None:
    student, teacher = make_head(kind), make_head(kind, seed=1)
    teacher.requires_grad_(False)
    labels = torch.randint(3, 97, (8, 101), generator=torch.Generator().manual_seed(0))
    states, theirs = (some_states(8, 101, seed).float() for seed in (0, 1))
    count = 8 * 100
    for states_grad in (True, False):
        problem = Prediction(Head(student), Targets(labels), Loss(), (Head(teacher), theirs))
        with Sizes() as sizes, torch.set_grad_enabled(states_grad):
            total, _, _ = problem.sums(states.requires_grad_(states_grad))
            if states_grad:
                total.backward()
        # A chunk of logits is as large as the hidden states, give or take a token.
        assert sizes.largest <= max(count * WIDTH + 97, states.numel())


def test_without_gradients_the_values_are_the_same_and_nothing_is_held() -> None:
    student, teacher = tiny_model("llama", 2), tiny_model("llama", 2, seed=1)
    states, theirs = some_states().float(), some_states(seed=1).float()
    problem = Prediction(Head(student), Targets(some_labels()), Loss(), (Head(teacher), theirs))
    with_grad = problem.sums(states, 4)
    with torch.no_grad(), Sizes() as sizes:
        without = problem.sums(states, 4)
    assert all(torch.equal(a, b) for a, b in zip(with_grad, without, strict=True))
    assert not any(value.requires_grad for value in without)
    assert sizes.largest < 97 * WIDTH


def test_the_gradients_are_handed_over_once() -> None:
    student = tiny_model("llama", 2)
    states = some_states().float().requires_grad_()
    total, _, _ = Prediction(Head(student), Targets(some_labels()), Loss(kl=0)).sums(states)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed over already"):
        total.backward()
