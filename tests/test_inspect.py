"""Inspection: similarity of states, members patched alone, and the advice that follows."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from boomerang import Family, LayerMap
from boomerang.errors import OutputError
from boomerang.orders.advice import advise_keep, advise_order
from boomerang.orders.divergence import predictions
from boomerang.orders.inspection import Inspection, inspect_family, inspect_teacher
from boomerang.orders.similarity import similarity
from boomerang.report.inspection import save_heatmap
from boomerang.text.windows import Text, Window
from tiny_models import tiny_model, tiny_pair

KEPT = LayerMap((0, 1, 3, 5), 7)


@pytest.fixture(scope="module")
def text() -> Text:
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 97, (40,), generator=generator).tolist()
    windows = (
        Window(tuple(tokens[:20]), tuple(tokens[1:21])),
        Window(tuple(tokens[10:25]), tuple(tokens[21:26])),
    )
    return Text(windows, num_bytes=100)


@pytest.fixture(scope="module")
def family() -> Family:
    return Family(*tiny_pair("llama"))


@pytest.fixture(scope="module")
def inspection(family: Family, text: Text) -> Inspection:
    return inspect_family(family, text)


def _states(model: torch.nn.Module, text: Text) -> list[torch.Tensor]:
    """The states at the scored positions; the last one, after the final norm, left out."""
    columns = []
    for window in text.windows:
        with torch.no_grad():
            out = model(torch.tensor([window.inputs]), output_hidden_states=True)
        columns.append([state[0, window.start :] for state in out.hidden_states[:-1]])
    return [torch.cat(parts) for parts in zip(*columns, strict=True)]


def test_similarities_are_those_of_the_stacked_states(family: Family, text: Text) -> None:
    inner, across = similarity(family.teacher, text, family)
    assert across is not None
    theirs, ours = _states(family.teacher, text), _states(family.student, text)
    assert inner.cosine.shape == (8, 8) and across.cosine.shape == (5, 8)
    for found, states in ((inner, theirs), (across, ours)):
        for i, a in enumerate(states):
            for j, b in enumerate(theirs):
                expected = torch.cosine_similarity(a, b, -1).mean().item()
                assert found.cosine[i, j] == pytest.approx(expected, abs=1e-5)
    assert inner.pairs == tuple(itertools.pairwise(range(8)))
    # Student layers 0 to 3 stand for teacher layers 0, 1-2, 3-4 and 5-6.
    assert across.pairs == ((1, 1), (2, 3), (3, 5), (4, 7))
    for found, states in ((inner, theirs), (across, ours)):
        for (i, j), (cosine, error) in list(zip(found.pairs, found.of_pairs(), strict=True))[:-1]:
            a, b = states[i], theirs[j]
            squares = (a - b).square().sum(-1) / b.square().sum(-1)
            assert error == pytest.approx(squares.mean().item(), rel=1e-4)
            assert cosine == found.cosine[i, j]


def test_predictions_are_those_of_plain_logits(
    family: Family, text: Text, inspection: Inspection
) -> None:
    for patched in (*inspection.ends, *inspection.alone, *inspection.orders):
        model, losses, divergences = family.model(patched.member), [], []
        for window in text.windows:
            tokens = torch.tensor([window.inputs])
            with torch.no_grad():
                ours, theirs = (
                    m(tokens).logits[0, window.start :].log_softmax(-1)
                    for m in (model, family.teacher)
                )
            losses.append(-ours.gather(1, torch.tensor(window.targets)[:, None])[:, 0])
            divergences.append((theirs.exp() * (theirs - ours)).sum(-1))
        assert patched.prediction.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
        assert patched.prediction.kl == pytest.approx(
            torch.cat(divergences).mean().item(), rel=1e-4, abs=1e-6
        )
        assert patched.prediction.perplexity == math.exp(patched.prediction.loss)


def test_what_is_measured_of_a_family(inspection: Inspection) -> None:
    assert [patched.member.patched for patched in inspection.ends] == [(), (0, 1, 2, 3)]
    assert [patched.member.patched for patched in inspection.alone] == [(0,), (1,), (2,), (3,)]
    orders = [(patched.member.order, patched.member.patch) for patched in inspection.orders]
    assert orders == [
        (order, patch) for order in ("last-to-first", "first-to-last") for patch in (1, 2)
    ]
    assert inspection.ends[1].prediction.kl == pytest.approx(0, abs=1e-6)
    assert inspection.order is not None and inspection.order.choice in {o for o, _ in orders}
    content = json.loads(json.dumps(inspection.to_json(), allow_nan=False))
    assert [pair["states"] for pair in content["student"]["pairs"]][1] == [2, 3]
    assert [patched["patched"] for patched in content["alone"]] == [[0], [1], [2], [3]]


def test_a_model_against_itself_has_no_divergence(text: Text) -> None:
    model = tiny_model("gpt2")
    [alone] = predictions([model], text)
    [same] = predictions([model], text, reference=model)
    assert alone.kl == 0 and same.kl == pytest.approx(0, abs=1e-7)
    assert alone.loss == same.loss


def _cosines(states: list[float]) -> list[list[float]]:
    """Cosines of states that are angles in a plane."""
    return np.cos(np.subtract.outer(states, states)).tolist()


def _brute_force(cosine: list[list[float]], count: int, every: int) -> tuple[int, ...]:
    depth = len(cosine) - 1

    def cost(layers: LayerMap) -> float:
        return sum(1 - cosine[block.start + 1][block.stop] for block in layers.blocks)

    plans = [
        LayerMap((0, *rest), depth) for rest in itertools.combinations(range(1, depth), count - 1)
    ]
    fitting = [plan for plan in plans if max(map(len, plan.blocks)) <= every]
    return min(fitting, key=cost).kept


@pytest.mark.parametrize("every", [2, 3, 4])
def test_the_layers_to_keep_are_the_cheapest_of_all_ways(every: int) -> None:
    generator = np.random.default_rng(every)
    for depth in (6, 9, 10):
        cosine = _cosines(list(np.cumsum(generator.uniform(0, 0.3, depth + 1))))
        usual = LayerMap.every(every, depth)
        advice = advise_keep(cosine, usual)
        assert advice.choice == _brute_force(cosine, usual.num_student_layers, every)


def test_unlike_first_layers_are_kept_without_knowing_the_model() -> None:
    # As in Llama: the first two layers turn the state much, the last one a little more than others.
    usual = LayerMap.every(2, 8)
    cosine = _cosines([0, 1.0, 2.0, *(2.0 + 0.1 * i for i in range(1, 6)), 2.7])
    advice = advise_keep(cosine, usual)
    assert advice.choice == (0, 1, 3, 5, 7)
    assert "for 0, 2, 4, 6, 7 to 0." in advice.reason and "1 (0.460)" in advice.reason
    # Where the last one does, it stays by itself, as in the usual pattern.
    states = [0.1 * i + 0.01 * i * i for i in range(8)]
    advice = advise_keep(_cosines([*states, states[-1] + 1.0]), usual)
    assert advice.choice == usual.kept == (0, 2, 4, 6, 7) and "for 0, 2" not in advice.reason


def test_the_order_is_the_one_nearer_to_the_teacher() -> None:
    kl = {"last-to-first": [0.3, 0.2], "first-to-last": [0.2, 0.1]}
    advice = advise_order(kl, [0.25, 0.3, 0.4], 0.35)
    assert advice.choice == "first-to-last"
    assert "0.2500 nats last-to-first, 0.1500 nats first-to-last" in advice.reason
    swapped = dict(zip(kl, reversed(kl.values()), strict=True))
    assert advise_order(swapped, [0.2], 0.35).choice == "last-to-first"


def test_the_heat_map_is_drawn(inspection: Inspection, text: Text, tmp_path: Path) -> None:
    path = save_heatmap(inspection, tmp_path / "new" / "map.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    alone = save_heatmap(inspect_teacher(tiny_model("gpt2"), text), tmp_path / "map.svg")
    assert "<svg" in alone.read_text()
    with pytest.raises(OutputError, match="is no figure"):
        save_heatmap(inspection, tmp_path / "map.txt")
