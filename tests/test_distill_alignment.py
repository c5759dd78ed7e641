"""The distances of hidden states against autograd in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boomerang.distill import losses
from boomerang.distill.losses import alignment_sum
from tensor_sizes import Sizes

DISTANCES = ["cosine", "relative_squared_error"]


def naive(a: Tensor, b: Tensor, mask: Tensor | None, distance: str) -> Tensor:
    if distance == "cosine":
        values = 1 - F.cosine_similarity(a, b, dim=-1)
    else:
        values = (a - b).norm(dim=-1) ** 2 / b.norm(dim=-1) ** 2
    return values.sum() if mask is None else values[mask].sum()


def states(rows: int = 3, length: int = 7, width: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, rows, length, width, generator=generator, dtype=torch.float64)
    return a.requires_grad_(), b


@pytest.fixture(params=[False, True], ids=["whole", "in parts"])
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(losses, "_SMALLEST_PART", 1)


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
def test_value_and_gradient_equal_autograd(distance: Any, masked: bool) -> None:
    a, b = states()
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.6 if masked else None
    exact = a.detach().clone().requires_grad_()
    value, expected = alignment_sum(a, b, mask, distance), naive(exact, b, mask, distance)
    (0.3 * value).backward()
    (0.3 * expected).backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(a.grad, exact.grad)


@pytest.mark.parametrize("distance", DISTANCES)
def test_what_padding_holds_does_not_matter(distance: Any) -> None:
    a, b = states()
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[:, 5:] = False
    with torch.no_grad():
        a[0, 5:], b[1, 6], a[2, 6], b[2, 5] = float("nan"), float("nan"), float("inf"), 0.0
    value = alignment_sum(a, b, mask, distance)
    value.backward()
    torch.testing.assert_close(value, naive(a[:, :5], b[:, :5], None, distance))
    assert torch.isfinite(a.grad).all()
    assert not a.grad[:, 5:].any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_states_in_bf16_are_measured_in_fp32(distance: Any) -> None:
    a, b = (x.detach().bfloat16() for x in states())
    # Nearly equal, as they are in the end: the difference must not drown in rounding.
    a = (b.float() * (1 + 0.01 * a.float())).bfloat16().requires_grad_()
    exact = a.detach().double().requires_grad_()
    expected = naive(exact, b.double(), None, distance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = alignment_sum(a, b, None, distance)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(
        expected.item(), rel=1e-2 if distance == "cosine" else 1e-5
    )
    value.backward()
    expected.backward()
    assert a.grad.dtype == torch.bfloat16
    error = (a.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error < 5e-3


@pytest.mark.parametrize("distance", DISTANCES)
def test_no_copy_of_a_state_is_made_or_kept(distance: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_SMALLEST_PART", 1)
    a, b = (x.detach().bfloat16() for x in states(4, 40, 64))
    a.requires_grad_()
    kept: list[int] = []
    mask = torch.ones(4, 40, dtype=torch.bool)
    with (
        torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.data_ptr()) or t, lambda t: t
        ),
        Sizes() as sizes,
    ):
        value = alignment_sum(a, b, mask, distance)
    assert sizes.largest <= a.numel() / 8
    own = {a.data_ptr(), b.data_ptr(), mask.data_ptr()}
    assert len(kept) == 5 and set(kept) > own
    with Sizes() as sizes:
        value.backward()
    assert sizes.largest == a.numel()
    assert sizes.largest_fp32 <= a.numel() / 8
