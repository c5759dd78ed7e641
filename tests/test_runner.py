"""One pass through a model's layers: states kept, replaced and stood in for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from boomerang.models.parts import layer_stack
from boomerang.models.runner import LAST, Runner
from tiny_models import ARCHITECTURES, tiny_model

INPUTS = {"input_ids": torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_states_are_bitwise_those_of_the_plain_model(name: str) -> None:
    model = tiny_model(name, num_layers=3)
    outputs: list[Any] = []
    hook = layer_stack(model)[-1].register_forward_hook(lambda *args: outputs.append(args[-1]))
    *inner, last = model(**INPUTS, output_hidden_states=True).hidden_states
    hook.remove()
    states = Runner(model).run(INPUTS, [*range(4), LAST])
    [output] = outputs
    inner.append(output[0] if isinstance(output, tuple) else output)
    assert sorted(states) == [LAST, 0, 1, 2, 3]
    assert torch.equal(states[LAST], last)
    for index, expected in enumerate(inner):
        assert torch.equal(states[index], expected)
    assert Runner(model).run(INPUTS).keys() == {LAST}


@torch.no_grad()
def test_a_pass_goes_on_from_a_state_or_from_what_layers_returned() -> None:
    model = tiny_model("gemma3_text")
    for layer in layer_stack(model):
        add_hook_to_module(layer, ModelHook())
    before = [(layer, layer.forward) for layer in layer_stack(model)]
    runner = Runner(model)
    plain = runner.run(INPUTS, [0])
    final, kept = runner.resume(INPUTS, [], [2, 5])
    assert torch.equal(final, plain[LAST])
    assert kept.keys() == {2, 5}
    other = {"input_ids": INPUTS["input_ids"].flip(0, 1)}
    assert torch.equal(runner.run(other, entry=plain[0])[LAST], plain[LAST])
    for depth, output in kept.items():
        ran: list[int] = []
        hooks = [
            layer.register_forward_hook(lambda *_, ran=ran: ran.append(1)) for layer, _ in before
        ]
        given = [output] * depth
        final, _ = runner.resume(INPUTS, given, [])
        for hook in hooks:
            hook.remove()
        assert torch.equal(final, plain[LAST])
        # The runner lets go of the state as soon as it is used.
        assert not given
        assert len(ran) == len(before) - depth
    assert not torch.equal(runner.run(other)[LAST], plain[LAST])
    assert [(layer, layer.forward) for layer in layer_stack(model)] == before


def test_a_pass_that_fails_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama")
    layers = list(layer_stack(model))
    runner = Runner(model)
    expected = runner.run(INPUTS)[LAST]

    def fail(*args: object) -> None:
        raise RuntimeError("on purpose")

    hook = layers[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        runner.resume(INPUTS, [torch.zeros(2, 9, 32)] * 2, [6])
    hook.remove()
    assert list(layer_stack(model)) == layers
    assert "forward" not in vars(model)
    assert torch.equal(runner.run(INPUTS)[LAST], expected)
