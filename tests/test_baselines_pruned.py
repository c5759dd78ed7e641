"""ShortGPT and LaCo: their formulas against straightforward code, and their search."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from boomerang.baselines import laco, shortgpt
from boomerang.baselines.laco import Settings, collapse, merge, reasonable, search
from boomerang.baselines.pruning import (
    Cache,
    Combination,
    Plan,
    PlanScores,
    can_combine,
    combine,
    keep,
    sample,
)
from boomerang.baselines.shortgpt import block_influence, remove_lowest
from boomerang.errors import ArchitectureError, LayerMapError, ResultsError
from boomerang.models.parts import layer_stack
from boomerang.text.windows import Text, Window
from tiny_models import ARCHITECTURES, tiny_model

TOKENS = torch.arange(3, 23)[None]


@pytest.fixture(scope="module")
def text() -> Text:
    """Two windows of unequal length, of one of which only the end counts."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, 97, (40,), generator=generator).tolist()
    windows = (
        Window(tuple(tokens[:24]), tuple(tokens[1:25])),
        Window(tuple(tokens[20:33]), tuple(tokens[25:34])),
    )
    return Text(windows, num_bytes=100)


def _counted(states: torch.Tensor, window: Window) -> torch.Tensor:
    return states[0, window.start :]


def _weights(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    return [copy.deepcopy(layer.state_dict()) for layer in layer_stack(model)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_moe"])
def test_block_influence_is_that_of_the_stacked_states(name: str, text: Text) -> None:
    teacher = tiny_model(name)
    # The last of transformers' states is after the final norm: taken from a hook instead.
    last: list[torch.Tensor] = []
    layer = layer_stack(teacher)[-1]
    hook = layer.register_forward_hook(
        lambda m, a, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    cosines = []
    for window in text.windows:
        with torch.no_grad():
            out = teacher(torch.tensor([window.inputs]), output_hidden_states=True)
        states = [_counted(state, window) for state in (*out.hidden_states[:-1], last[-1])]
        cosines.append(
            torch.stack([torch.cosine_similarity(a, b, -1) for a, b in pairwise(states)])
        )
    hook.remove()
    expected = 1 - torch.cat(cosines, 1).mean(1)
    torch.testing.assert_close(torch.tensor(block_influence(teacher, text)), expected)


def test_the_layers_of_lowest_influence_go_the_first_too() -> None:
    influence = [0.1, 0.5, 0.2, 0.2, 0.9]
    assert [layer.base for layer in remove_lowest(influence, 3)] == [1, 2, 4]
    assert [layer.base for layer in remove_lowest(influence, 1)] == [4]
    for size in (0, 5):
        with pytest.raises(LayerMapError, match="cannot be kept"):
            remove_lowest(influence, size)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pruned_model_is_the_teacher_without_these_layers(name: str, tmp_path: Path) -> None:
    teacher = tiny_model(name)
    before = copy.deepcopy(teacher.state_dict())
    model = combine(teacher, keep([1, 2, 5]))
    assert model.config.get_text_config().num_hidden_layers == 3
    assert type(model) is type(teacher)
    with torch.no_grad():
        logits = model(TOKENS).logits
    model.save_pretrained(tmp_path)
    loaded = type(teacher).from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, logits)
    for layer, source in zip(_weights(model), (1, 2, 5), strict=True):
        torch.testing.assert_close(layer, _weights(teacher)[source])
    torch.testing.assert_close(teacher.state_dict(), before)


def test_merging_is_the_papers_formula_and_not_the_notebooks_update() -> None:
    teacher = tiny_model("llama")
    before = _weights(teacher)
    model = combine(teacher, merge(keep(range(6)), 1, 3))
    merged = _weights(model)
    for name, base in before[1].items():
        others = [before[layer][name] for layer in (2, 3, 4)]
        formula = base + sum(other - base for other in others)
        torch.testing.assert_close(merged[1][name], formula)
        # The notebook subtracts what it has just added to, so that all but the last cancels.
        notebook = base.clone()
        for other in others:
            notebook.add_(other - notebook)
        torch.testing.assert_close(notebook, others[-1])
        assert not torch.allclose(notebook, formula)
    torch.testing.assert_close([merged[0], merged[2]], [before[0], before[5]])
    torch.testing.assert_close(_weights(teacher), before)


def test_merging_merged_layers_is_the_formula_again() -> None:
    teacher = tiny_model("gpt_neox")
    once = combine(teacher, merge(keep(range(6)), 3, 2))
    twice = merge(merge(keep(range(6)), 3, 2), 1, 2)
    layers, expected = _weights(once), {}
    for name, base in layers[1].items():
        expected[name] = base + sum(layers[i][name] - base for i in (2, 3))
    torch.testing.assert_close(_weights(combine(teacher, twice))[1], expected)
    # Two layers become the second: no weight of the first is left.
    assert merge(keep(range(3)), 0, 1)[0] == Combination(0, ((1, 1),))


def test_layers_of_other_shapes_are_not_merged() -> None:
    teacher = tiny_model("qwen3_moe")
    mixed = merge(keep(range(6)), 0, 1)
    assert can_combine(teacher, merge(keep((0, 2, 3, 5)), 0, 2))
    assert not can_combine(teacher, merge(keep(range(6)), 0, 2))
    with pytest.raises(ArchitectureError, match="other shapes"):
        combine(teacher, mixed)


def _straightforward(num_layers: int, settings: Settings, accepts: Any) -> list[list[int]]:
    """The search of the authors' notebook, on a list of layer numbers."""
    layers = list(range(num_layers))
    at, results = settings.highest - settings.merge, []
    while at >= settings.lowest:
        more = min(settings.merge - 1, len(layers) - at - 1)
        candidate = layers[: at + 1] + layers[at + 1 + more :]
        if more > 0 and accepts(candidate):
            layers = candidate
            results.append(layers)
            at -= settings.interval
            if at >= len(layers):
                at = len(layers) - 1 - settings.merge
        else:
            at -= 1
    return results


@pytest.mark.parametrize("settings", [
    Settings(merge=7, highest=39),
    Settings(merge=3, highest=16, interval=2),
    Settings(merge=4, highest=40, lowest=5, threshold=0.7),
    Settings(merge=2, highest=12, threshold=-1.0),
])  # fmt: skip
def test_the_search_goes_down_as_the_notebooks(settings: Settings) -> None:
    def cosine(bases: list[int]) -> float:
        return math.sin(sum(bases) + len(bases))

    found = collapse(40, settings, lambda plan: cosine([layer.base for layer in plan]))
    expected = _straightforward(40, settings, lambda bases: cosine(bases) > settings.threshold)
    assert [[layer.base for layer in plan] for plan in found] == expected
    assert len(expected) > 2


def test_a_merge_at_the_threshold_does_not_stay() -> None:
    settings = Settings(merge=2, highest=5, threshold=0.5)
    assert list(collapse(6, settings, lambda plan: 0.5)) == []
    assert list(collapse(6, settings, lambda plan: None)) == []


def test_published_settings_scale_with_depth() -> None:
    assert Settings.scaled(40) == Settings(merge=7, highest=39, interval=1, threshold=0.45)
    assert [Settings.scaled(depth).merge for depth in (5, 16, 36)] == [2, 3, 6]


def test_the_search_takes_the_best_plan_of_each_size() -> None:
    def loss(plan: Plan) -> float:
        return float(sum(layer.base for layer in plan))

    def cosine(plan: Plan) -> float:
        return abs(math.sin(sum(layer.base for layer in plan) + len(plan)))

    found = search(16, [5, 9, 14], cosine, loss)
    assert {size: len(best.plan) for size, best in found.items()} == {5: 5, 9: 9, 14: 14}
    assert all(best.loss == loss(best.plan) and best.tried > 1 for best in found.values())
    # There is none better among those of single searches.
    passed = {plan for settings in reasonable(16) for plan in collapse(16, settings, cosine)}
    for size, best in found.items():
        assert best.loss == min(loss(plan) for plan in passed if len(plan) == size)
        assert best.plan in collapse(16, best.settings, cosine)
    assert {settings.merge for settings in reasonable(6)} == {2, 3}
    with pytest.raises(LayerMapError, match="no settings lead to 3 layers"):
        search(8, [3], lambda plan: None, loss)
    with pytest.raises(LayerMapError, match="8 of 8 layers cannot be kept"):
        search(8, [8], lambda plan: 0.5, loss)


def test_scores_are_those_of_the_plain_computation(text: Text) -> None:
    teacher = tiny_model("llama")
    scores = PlanScores(teacher, text, teacher_hash="t", cache=Cache())
    plan = merge(keep(range(6)), 2, 2)
    model = combine(teacher, plan)
    cosines, losses = [], []
    for window in text.windows:
        tokens = torch.tensor([window.inputs])
        with torch.no_grad():
            ours, theirs = (m.model(tokens).last_hidden_state for m in (model, teacher))
            log_probs = _counted(model(tokens).logits, window).log_softmax(-1)
        cosines.append(torch.cosine_similarity(ours, theirs, -1)[0, window.start :])
        losses.append(-log_probs.gather(1, torch.tensor(window.targets)[:, None])[:, 0])
    assert scores.similarity(plan) == pytest.approx(torch.cat(cosines).mean().item(), rel=1e-5)
    assert scores.loss(plan) == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert scores.similarity(keep(range(6))) == pytest.approx(1)


def test_similarity_is_measured_on_a_sample() -> None:
    windows = tuple(Window((1, 2, 3), (2, 3, index)) for index in range(100))
    few = sample(Text(windows, num_bytes=1), tokens=30)
    assert [window.targets[-1] for window in few.windows] == list(range(0, 100, 10))
    assert sample(Text(windows, num_bytes=1), tokens=1000).windows == windows
    assert len(sample(Text(windows, num_bytes=1), tokens=1).windows) == 1


def test_a_search_resumes_from_its_scores(
    tmp_path: Path, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, path = tiny_model("llama"), tmp_path / "baselines.jsonl"
    computed: list[Plan] = []
    plain = PlanScores._similarity

    def counting(self: PlanScores, plan: Plan) -> float | None:
        computed.append(plan)
        return plain(self, plan)

    monkeypatch.setattr(PlanScores, "_similarity", counting)

    def run(teacher_hash: str = "t") -> list[Any]:
        return [
            (model.hash, model.num_layers)
            for method in (shortgpt, laco)
            for model in method.models(
                PlanScores(teacher, text, teacher_hash=teacher_hash, cache=Cache(path)), [3, 4]
            )
        ]

    first = run()
    assert [size for _, size in first] == [3, 4, 3, 4] and len(set(first)) == 4
    assert len(computed) == len(set(computed)) > 5
    # Killed after the first lines, in the middle of one.
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    whole = len(computed)
    computed.clear()
    assert run() == first
    assert 0 < len(computed) < whole
    computed.clear()
    assert run() == first and not computed
    assert run("another") != first and computed
    path.write_text('{"of": 1}\n')
    with pytest.raises(ResultsError, match="line 1: is no score"):
        Cache(path)
