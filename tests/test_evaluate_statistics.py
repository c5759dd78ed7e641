"""Standard errors against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from boomerang.errors import ResultsError
from boomerang.evaluate.perplexity import Scores
from boomerang.evaluate.statistics import paired_difference, ratio

RNG = np.random.default_rng(0)
N = 400
TOKENS = RNG.integers(50, 200, N).astype(float)
HARDNESS = RNG.normal(2.0, 0.3, N)


def _scores(shift: float, noise: float, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(TOKENS * (HARDNESS + shift + rng.normal(0, noise, N)), TOKENS, num_bytes=150_000)


def _bootstrap(statistic, draws: int = 2000) -> float:  # type: ignore[no-untyped-def]
    picks = RNG.integers(0, N, (draws, N))
    return float(np.std([statistic(pick) for pick in picks]))


def _perplexity(scores: Scores, pick: np.ndarray) -> float:
    return math.exp(scores.nll[pick].sum() / TOKENS[pick].sum())


def test_values() -> None:
    scores = Scores(np.array([2.0, 4.0]), np.array([1.0, 2.0]), num_bytes=12)
    assert scores.nats_per_token.value == pytest.approx(2.0)
    assert scores.perplexity.value == pytest.approx(math.exp(2.0))
    assert scores.bits_per_byte.value == pytest.approx(6.0 / math.log(2) / 12)


def test_equal_items_give_the_textbook_standard_error_of_a_mean() -> None:
    values = RNG.normal(3.0, 1.0, 50)
    estimate = ratio(values, np.ones(50))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.stderr == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_paired_difference_of_means_is_numpys() -> None:
    a, b = RNG.normal(3.0, 1.0, 50), RNG.normal(2.5, 1.0, 50)
    difference, stderr = paired_difference(ratio(a, np.ones(50)), ratio(b, np.ones(50)))
    assert difference == pytest.approx((a - b).mean())
    assert stderr == pytest.approx((a - b).std(ddof=1) / math.sqrt(50))


def test_standard_errors_agree_with_the_bootstrap() -> None:
    a, b = _scores(0.0, 0.05, seed=1), _scores(0.1, 0.05, seed=2)
    assert a.perplexity.stderr == pytest.approx(
        _bootstrap(lambda pick: _perplexity(a, pick)), rel=0.1
    )
    difference, stderr = paired_difference(b.perplexity, a.perplexity)
    assert difference == pytest.approx(b.perplexity.value - a.perplexity.value)
    assert stderr == pytest.approx(
        _bootstrap(lambda pick: _perplexity(b, pick) - _perplexity(a, pick)), rel=0.1
    )
    # Pairing is the point: both models find the same windows hard.
    assert stderr is not None and a.perplexity.stderr is not None
    assert stderr < 0.5 * a.perplexity.stderr


def test_bits_per_byte_errs_as_much_as_nats_per_token() -> None:
    scores = _scores(0.0, 0.1, seed=3)
    nats, bits = scores.nats_per_token, scores.bits_per_byte
    assert bits.stderr is not None and nats.stderr is not None
    assert bits.stderr / bits.value == pytest.approx(nats.stderr / nats.value)


def test_one_item_has_no_standard_error() -> None:
    one = ratio(np.array([3.0]), np.array([2.0]))
    assert one.stderr is None
    assert paired_difference(one, one) == (0.0, None)


def test_a_perplexity_beyond_all_numbers_is_refused() -> None:
    with pytest.raises(ResultsError, match="800 nats has no finite perplexity"):
        _ = Scores(np.array([800.0, 800.0]), np.ones(2), num_bytes=2).perplexity


def test_different_items_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same items"):
        paired_difference(ratio(np.ones(3), np.ones(3)), ratio(np.ones(4), np.ones(4)))
