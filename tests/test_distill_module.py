from __future__ import annotations

import copy
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from boomerang.checkpoint.loading import load_model
from boomerang.checkpoint.student_config import read_student_config
from boomerang.distill.losses import IGNORED, Counts, log_probabilities, weighted_loss
from boomerang.distill.module import DistillModule, LossSums, draw_route
from boomerang.distill.recipe import Loss
from boomerang.errors import ArchitectureError, LayerMapError
from boomerang.family import Family
from tensor_sizes import Sizes
from tiny_models import tiny_model, tiny_pair

ALL = Loss(ce=1, kl=1, alignment=10)


def loss_of(sums: LossSums, weights: Loss) -> Tensor:
    counts = Counts(sums["ce_count"], sums["kl_count"], sums["alignment_count"])
    return weighted_loss(sums["prediction"], sums["alignment"], counts, weights)


def tokens(rows: int = 3, length: int = 20, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 97, (rows, length), generator=generator)


def step_with(module: DistillModule, name: str) -> int:
    return next(step for step in range(1000) if module.route(step).name == name)


@pytest.mark.parametrize("temperature", [1, 2])
def test_reference_mode_gives_the_references_losses(golden_pair: Path, temperature: int) -> None:
    golden = json.loads((golden_pair / "meta.json").read_text())["losses"]
    batch = load_file(golden_pair / "logits.safetensors")
    layers, _ = read_student_config(golden_pair / "student")
    teacher = load_model(golden_pair / "teacher", dtype=torch.float32)
    student = load_model(golden_pair / "student", dtype=torch.float32)
    weights = {
        "ce": Loss(ce=1, kl=0, alignment=0),
        "kl": Loss(ce=0, kl=1, alignment=0, temperature=temperature),
        "cosine": Loss(ce=0, kl=0, alignment=1),
        "total": Loss(temperature=temperature),
    }
    for name, loss in weights.items():
        module = DistillModule(teacher, student, layers, loss, mode="reference")
        sums = module(batch["loss_input_ids"], batch["loss_labels"], batch["loss_attention_mask"])
        expected = golden[f"{name}_T{temperature}"]
        assert loss_of(sums, loss).item() == pytest.approx(expected, abs=1e-5), name


@pytest.mark.parametrize("distance", ["cosine", "relative_squared_error"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma3_text", "gpt_neox"])
def test_clean_losses_equal_those_of_the_single_documents(name: str, distance: Any) -> None:
    """Padded rows and packed rows against transformers' own outputs, a document at a time."""
    teacher, student, layers = tiny_pair(name)
    documents = [tokens(1, length, seed=length) for length in (9, 5, 7)]
    weights = Loss(ce=1, kl=1, alignment=1, temperature=1.5, distance=distance)
    expected = {"ce": 0.0, "kl": 0.0, "alignment": torch.zeros(len(layers.alignment))}
    with torch.no_grad():
        for ids in documents:
            mine = student(ids, output_hidden_states=True)
            theirs = teacher(ids, output_hidden_states=True)
            logits = mine.logits[0, :-1]
            expected["ce"] += F.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            p = (theirs.logits[0, :-1] / 1.5).softmax(-1)
            q = (logits / 1.5).softmax(-1)
            expected["kl"] += 1.5**2 * (p * (p / q).log()).sum().item()
            for pair, (i, j) in enumerate(layers.alignment):
                a, b = mine.hidden_states[i], theirs.hidden_states[j]
                if distance == "cosine":
                    value = 1 - F.cosine_similarity(a, b, dim=-1)
                else:
                    value = (a - b).norm(dim=-1) ** 2 / b.norm(dim=-1) ** 2
                expected["alignment"][pair] += value.sum()
    module = DistillModule(teacher, student, layers, weights)
    with torch.no_grad():
        padded, packed = module(**_padded(documents)), module(**_packed(documents))
    for sums in (padded, packed):
        assert sums["ce"].item() == pytest.approx(expected["ce"], rel=1e-5)
        assert sums["kl"].item() == pytest.approx(expected["kl"], rel=1e-4)
        torch.testing.assert_close(sums["alignment"], expected["alignment"], rtol=1e-4, atol=1e-4)
        assert sums["ce_count"] == sums["kl_count"] == 21 - 3
        assert sums["alignment_count"] == 21


@pytest.mark.parametrize("distance", ["cosine", "relative_squared_error"])
@pytest.mark.parametrize(
    ("name", "tied"), [("llama", True), ("llama", False), ("gpt2", None), ("gemma3_text", None)]
)
def test_gradients_are_those_of_the_plain_losses(
    name: str, tied: bool | None, distance: Any
) -> None:
    """All parameters in fp64, a tied matrix as embedding and head at once."""
    teacher, student, layers = tiny_pair(name, tied)
    teacher.double()
    student.double()
    weights = Loss(ce=0.5, kl=0.7, alignment=3, temperature=1.5, distance=distance)
    plain = copy.deepcopy(student)
    ids = tokens()
    module = DistillModule(teacher, student, layers, weights)
    loss = loss_of(module(ids, ids), weights)
    loss.backward()
    mine, theirs = (model(ids, output_hidden_states=True) for model in (plain, teacher))
    logits = mine.logits[:, :-1].flatten(0, 1)
    p = (theirs.logits[:, :-1].flatten(0, 1) / 1.5).softmax(-1)
    q = (logits / 1.5).softmax(-1)
    expected = 0.5 * F.cross_entropy(logits, ids[:, 1:].flatten())
    expected = expected + 0.7 * 1.5**2 * (p * (p / q).log()).sum(-1).mean()
    for i, j in layers.alignment:
        a, b = mine.hidden_states[i], theirs.hidden_states[j]
        if distance == "cosine":
            values = 1 - F.cosine_similarity(a, b, dim=-1)
        else:
            values = (a - b).square().sum(-1) / b.square().sum(-1)
        expected = expected + 3 / len(layers.alignment) * values.mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for (key, parameter), other in zip(student.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=key)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_batch_without_targets_gives_every_parameter_that_ran_a_gradient(step: int) -> None:
    """Other processes wait for it."""
    teacher, student, layers = tiny_pair("llama", tied=False)
    module = DistillModule(teacher, student, layers, ALL, switch=0.4, mirror=0.4).train()
    ids = tokens()
    gradients = []
    for labels in (ids, torch.full_like(ids, IGNORED)):
        student.zero_grad()
        sums = module(ids, labels, step=step)
        sums["prediction"].backward()
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert not any(gradient.any() for gradient in gradients[1].values())


@pytest.mark.parametrize("rest", ["padding", "prompt"])
def test_only_the_tokens_that_are_named_are_aligned(rest: str) -> None:
    teacher, student, layers = tiny_pair("llama")
    module = DistillModule(teacher, student, layers, ALL)
    ids = tokens(2, 12)
    aligned = torch.ones_like(ids, dtype=torch.bool)
    aligned[:, 8:] = False
    if rest == "padding":
        # The rest of a packed row: a document of its own, without targets.
        labels = ids.masked_fill(~aligned, IGNORED)
        positions = torch.cat([torch.arange(8), torch.arange(4)]).expand(2, -1)
        inputs = {"labels": labels, "position_ids": positions}
    else:
        inputs = {"labels": ids}
    whole = module(ids[:, :8], ids[:, :8])
    sums = module(ids, aligned=aligned, **inputs)
    torch.testing.assert_close(sums["alignment"], whole["alignment"])
    assert sums["alignment_count"] == whole["alignment_count"] == 16
    if rest == "padding":
        torch.testing.assert_close(sums["prediction"], whole["prediction"])
        assert sums["ce_count"] == whole["ce_count"]


@pytest.mark.parametrize("patched", [(), (0,), (1, 2), (0, 3), (0, 1, 2, 3)])
def test_a_member_is_evaluated_in_place(patched: tuple[int, ...]) -> None:
    teacher, student, layers = tiny_pair("qwen3")
    module = DistillModule(teacher, student, layers, Loss(ce=0, kl=1)).eval()
    ids, labels = tokens(), tokens()
    labels[:, :5] = IGNORED
    sums = module(ids, labels, patched=patched)
    logits = Family(teacher, student, layers).model(blocks=patched)(ids).logits
    ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    assert sums["ce"].item() == pytest.approx(ce.item(), rel=1e-5)
    assert sums["ce_count"] == (labels[:, 1:] != IGNORED).sum()
    assert not any(value.any() for name, value in sums.items() if not name.startswith("ce"))
    assert not any(value.requires_grad for value in sums.values())


def test_a_member_of_other_layers_is_refused() -> None:
    teacher, student, layers = tiny_pair("llama")
    with pytest.raises(LayerMapError):
        DistillModule(teacher, student, layers, ALL)(tokens(), tokens(), patched=(4,))


def test_evaluating_members_leaves_the_modes_of_all_layers_alone() -> None:
    teacher, student, layers = tiny_pair("gpt2")
    module = DistillModule(teacher, student, layers, ALL, mirror=1.0).train()
    ids = tokens()
    module(ids, ids)
    module.eval()(ids, ids, patched=(0, 1))
    module.train()(ids, ids)
    assert all(m.training for m in student.modules())
    assert not any(m.training for m in teacher.modules())


def test_no_logits_of_all_tokens_and_no_states_beyond_the_aligned_ones() -> None:
    teacher, student, layers = tiny_pair("llama")
    ids = tokens(8, 60)
    module = DistillModule(teacher, student, layers, ALL)
    with Sizes() as sizes:
        loss_of(module(ids, ids), ALL).backward()
    # A feed-forward layer (48 wide) holds more than a chunk of logits.
    assert sizes.largest <= 8 * 60 * 48


def test_temperature_does_not_round_the_logits() -> None:
    logits = 20 * torch.randn(4, 97, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = F.log_softmax(logits.double() / 1.5, dim=-1)
    torch.testing.assert_close(log_probabilities(logits, 1.5).double(), exact, rtol=0, atol=1e-5)


def _padded(documents: list[Tensor]) -> dict[str, Tensor]:
    rows = [F.pad(ids, (0, 12 - ids.shape[1]), value=2) for ids in documents]
    masks = [F.pad(torch.ones_like(ids), (0, 12 - ids.shape[1])) for ids in documents]
    ids, mask = torch.cat(rows), torch.cat(masks)
    labels = ids.masked_fill(mask == 0, IGNORED)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def _packed(documents: list[Tensor]) -> dict[str, Tensor]:
    ids = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(d.shape[1])[None] for d in documents], dim=1)
    labels = ids.masked_fill(positions == 0, IGNORED)
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


@pytest.mark.parametrize("term", ["ce", "kl", "alignment"])
def test_a_term_of_weight_zero_is_not_computed_and_changes_no_other(term: str) -> None:
    teacher, student, layers = tiny_pair("llama")
    ids = tokens()
    whole = DistillModule(teacher, student, layers, ALL)(ids, ids)
    without = ALL.model_copy(update={term: 0.0})
    sums = DistillModule(teacher, student, layers, without)(ids, ids)
    for name in ("ce", "kl", "alignment"):
        expected = torch.zeros_like(whole[name]) if name == term else whole[name]
        torch.testing.assert_close(sums[name], expected)


def test_what_no_term_needs_is_not_run() -> None:
    teacher, student, layers = tiny_pair("llama")
    runs: list[str] = []
    for role, model in (("teacher", teacher), ("student", student)):
        model.base_model.register_forward_hook(lambda *_, role=role: runs.append(role))
        model.lm_head.register_forward_hook(lambda *_, role=role: runs.append(f"{role} head"))
    ids = tokens()
    for loss, expected in (
        (Loss(ce=1, kl=0, alignment=0), ["student", "student head"]),
        (Loss(ce=1, kl=0, alignment=1), ["teacher", "student", "student head"]),
        (Loss(ce=0, kl=0, alignment=1), ["teacher", "student"]),
    ):
        runs.clear()
        DistillModule(teacher, student, layers, loss)(ids, ids)
        # A head runs many times, for a few tokens each.
        assert [name for name, _ in groupby(runs)] == expected


def test_the_teacher_is_no_part_of_the_module_and_gets_no_gradient() -> None:
    teacher, student, layers = tiny_pair("qwen3")
    module = DistillModule(teacher, student, layers, ALL, mirror=1.0).train()
    assert {name.partition(".")[0] for name in module.state_dict()} == {"student"}
    own = {id(parameter) for parameter in student.parameters()}
    assert {id(parameter) for parameter in module.parameters()} == own
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    ids = tokens()
    loss_of(module(ids, ids, step=0), ALL).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert {id(parameter) for parameter in module.parameters()} == own


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_on_switch_points_the_member_of_the_family_is_trained(name: str) -> None:
    """Entering at j runs the member with blocks 0..j-1 patched, leaving at i that with i..M-1."""
    teacher, student, layers = tiny_pair(name)
    module = DistillModule(teacher, student, layers, ALL, switch=0.5, mirror=0.5).train()
    count = layers.num_student_layers
    ids = tokens()
    seen = set()
    for step in range(40):
        route = module.route(step)
        if route in seen:
            continue
        seen.add(route)
        blocks = range(route.enter) if route.enter else range(route.leave, count)
        member = Family(teacher, student, layers).model(blocks=set(blocks))
        with torch.no_grad():
            sums = module(ids, ids, step=step)
            logits, wanted = member(ids).logits, teacher(ids).logits.log_softmax(-1)
        ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        kl = F.kl_div(
            logits[:, :-1].log_softmax(-1), wanted[:, :-1], reduction="sum", log_target=True
        )
        assert sums["ce"].item() == pytest.approx(ce.item(), rel=1e-5)
        assert sums["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert len(seen) == 2 * (count - 1)


@pytest.mark.parametrize("kind", ["switch", "mirror"])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_reach_exactly_the_layers_that_ran(kind: str, tied: bool) -> None:
    teacher, student, layers = tiny_pair("llama", tied=tied)
    probability = {kind: 1.0}
    module = DistillModule(teacher, student, layers, ALL, **probability).train()
    route = module.route(0)
    ids = tokens()
    sums = module(ids, ids, step=0)
    assert torch.isfinite(loss_of(sums, ALL))
    loss_of(sums, ALL).backward()
    ran = set(range(route.enter, route.leave))
    with_gradient = {name for name, p in student.named_parameters() if p.grad is not None}
    expected = {
        name
        for name, _ in student.named_parameters()
        if (name.startswith("model.layers.") and int(name.split(".")[2]) in ran)
        or ("embed_tokens" in name and (kind == "mirror" or tied))
        or (name.startswith(("model.norm", "lm_head")) and kind == "switch")
    }
    assert with_gradient == expected
    nonzero = sums["alignment"] != 0
    assert nonzero.nonzero().flatten().tolist() == list(route.pairs)


def test_the_mirror_ends_in_the_teachers_head_even_where_it_still_equals_the_students() -> None:
    """A fresh tied student: only the tokens of the text may pull at its embedding."""
    teacher, student, layers = tiny_pair("qwen3")
    with torch.no_grad():
        student.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight)
    module = DistillModule(teacher, student, layers, ALL, mirror=1.0).train()
    ids = tokens()
    loss_of(module(ids, ids, step=0), ALL).backward()
    gradient = student.get_input_embeddings().weight.grad
    assert gradient is not None
    touched = gradient.abs().sum(-1).nonzero().flatten().tolist()
    assert touched == sorted(set(ids.flatten().tolist()))


@pytest.mark.parametrize("kind", ["student", "switch", "mirror"])
def test_activation_checkpointing_changes_no_gradient(kind: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        teacher, student, layers = tiny_pair("llama")
        probability = {} if kind == "student" else {kind: 1.0}
        module = DistillModule(teacher, student, layers, ALL, **probability).train()
        if checkpointing and hasattr(student, "activation_checkpointing_enable"):
            module.activation_checkpointing_enable()
        elif checkpointing:
            module.gradient_checkpointing_enable()
        ids = tokens()
        loss_of(module(ids, ids, step=0), ALL).backward()
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("kind", ["student", "switch", "mirror"])
@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_mixed_precision_runs_on_every_route(kind: str, name: str) -> None:
    """As on a GPU: teacher in bf16, student in fp32 under autocast, losses in fp32."""
    teacher, student, layers = tiny_pair(name)
    probability = {} if kind == "student" else {kind: 1.0}
    module = DistillModule(teacher, student, layers, ALL, **probability).train()
    ids = tokens()
    exact = loss_of(module(ids, ids, step=0), ALL).item()
    teacher.to(torch.bfloat16)
    module = DistillModule(teacher, student, layers, ALL, **probability).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = module(ids, ids, step=0)
    assert sums["ce"].dtype == sums["kl"].dtype == sums["alignment"].dtype == torch.float32
    loss = loss_of(sums, ALL)
    assert loss.item() == pytest.approx(exact, rel=0.05)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in student.parameters() if p.grad is not None)


def test_frozen_parts_take_no_gradient() -> None:
    teacher, student, layers = tiny_pair("llama", tied=False)
    module = DistillModule(teacher, student, layers, ALL, freeze=["embedding", "head"]).train()
    frozen = {name for name, p in module.student.named_parameters() if not p.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    ids = tokens()
    loss_of(module(ids, ids), ALL).backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in student.parameters())


def test_evaluation_always_runs_the_plain_student() -> None:
    teacher, student, layers = tiny_pair("llama")
    module = DistillModule(teacher, student, layers, ALL, switch=0.5, mirror=0.5)
    assert {module.eval().route(step).name for step in range(20)} == {"student"}
    assert {module.train().route(step).name for step in range(20)} == {"switch", "mirror"}


def test_routes_follow_from_seed_and_step_with_the_given_frequencies() -> None:
    def draw(seed: int) -> list[tuple[int, int]]:
        routes = [draw_route(seed, step, 5, switch=0.25, mirror=0.5) for step in range(2000)]
        return [(route.enter, route.leave) for route in routes]

    routes = draw(0)
    assert routes == draw(0)
    assert routes != draw(1)
    assert {point for point, _ in routes} == {0, 1, 2, 3, 4}
    assert {point for _, point in routes} == {1, 2, 3, 4, 5}
    assert sum(enter > 0 for enter, _ in routes) / 2000 == pytest.approx(0.25, abs=0.04)
    assert sum(leave < 5 for _, leave in routes) / 2000 == pytest.approx(0.5, abs=0.04)
    assert draw_route(0, 0, 1, switch=1.0).name == "student"


def test_models_that_do_not_fit_the_plan_are_refused() -> None:
    teacher, student, layers = tiny_pair("llama")
    with pytest.raises(ArchitectureError, match="student"):
        DistillModule(teacher, tiny_model("llama", 3), layers, ALL)
    with pytest.raises(ArchitectureError, match="teacher"):
        DistillModule(student, student, layers, ALL)
