"""Every member of every architecture, built and loaded as a user would; what is wrong is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from boomerang import Family, build
from boomerang.checkpoint.loading import load_model
from boomerang.checkpoint.record import read_record
from boomerang.cli import app
from boomerang.errors import CheckpointError, LayerMapError
from boomerang.verify import (
    _STEPS_PER_LAYER,
    _compare_greedy,
    _same_bits,
    compare,
    rounding_bound,
    verify,
)
from disk import save_models, save_pair
from tiny_models import ARCHITECTURES, tiny_model, tiny_pair

ORDERS = ("last-to-first", "first-to-last")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_member_along_both_orders_passes(name: str, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, name)
    family = Family.from_pretrained(teacher, student)
    members = {m for order in ORDERS for m in family.layers.members(order=order)}
    for number, member in enumerate(sorted(members, key=lambda m: m.patched)):
        out = build(teacher, student, tmp_path / str(number), blocks=member.patched)
        result = compare(load_model(out), family, read_record(out))
        assert result.passed, result.difference
        assert result.tensors > 10
        assert result.tokens == 16


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("verify")
    teacher, student = save_pair(directory, "qwen3")
    return build(teacher, student, directory / "member", patch=1)


def altered(member: Path, tmp_path: Path, name: str, change: object) -> Path:
    """A copy of a member in which one tensor is changed."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in member.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = load_file(member / "model.safetensors")
    weights[name] = change(weights[name])  # type: ignore[operator]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_a_single_wrong_bit_is_named(member: Path, tmp_path: Path) -> None:
    def flip(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(torch.int32)[0, 0] ^= 1
        return tensor

    name = "model.layers.2.mlp.down_proj.weight"
    result = verify(altered(member, tmp_path, name, flip))
    assert result.difference == f"tensor {name} differs"


def test_tensors_of_every_rank_are_compared_bit_by_bit() -> None:
    """A scalar has no dimension to cut into bytes, and zero and minus zero are two numbers."""
    nan = torch.full((2, 3), float("nan"))
    for a in (torch.tensor(3), torch.tensor(0.0), torch.zeros(0, 4), nan, torch.arange(6.0)):
        assert _same_bits(a, a.clone())
    assert _same_bits(nan.T, nan.T.contiguous())
    for a, b in (
        (torch.tensor(3), torch.tensor(4)),
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (torch.arange(6.0), torch.arange(6.0).reshape(2, 3)),
        (torch.zeros(4, dtype=torch.float16), torch.zeros(4, dtype=torch.bfloat16)),
    ):
        assert not _same_bits(a, b)


def test_not_a_number_is_reported(tmp_path: Path) -> None:
    teacher, student, layers = tiny_pair("llama")
    with torch.no_grad():
        teacher.model.norm.weight[-1] = float("nan")
    sources = save_models(tmp_path, teacher, student, layers)
    out = build(*sources, tmp_path / "member", patch=1, order="last-to-first")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has NaN or infinite values"):
        verify(out)
    family = Family(teacher, student, layers)
    record = read_record(out)
    result = compare(family.model(layers.member(blocks=record.patched)), family, record)
    assert result.difference is not None
    assert "not finite" in result.difference


def test_rounding_passes_and_no_more(member: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order differ in their last bits; a constant of the config does not pass."""
    record = read_record(member)
    built, family = load_model(member), Family.from_pretrained(record.teacher, record.student)
    head = built.lm_head
    with monkeypatch.context() as patch:
        patch.setattr(head, "forward", lambda state: state.flip(-1) @ head.weight.flip(-1).T)
        result = compare(built, family, record)
    assert result.passed, result.difference
    assert 0 < result.largest <= result.allowed < 1e-4
    for layer in built.model.layers:
        layer.input_layernorm.variance_epsilon *= 100
    result = compare(built, family, record)
    assert result.difference is not None and "logits differ" in result.difference


def test_a_difference_that_is_no_number_does_not_pass(
    member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record(member)
    built, family = load_model(member), Family.from_pretrained(record.teacher, record.student)
    logits = iter([torch.zeros(1, 4), torch.tensor([[0.0, float("nan"), 0.0, 0.0]])])
    monkeypatch.setattr("boomerang.verify._logits", lambda model, ids: next(logits))
    assert not compare(built, family, record).passed


def test_what_rounding_is_allowed_follows_from_depth_width_dtype_and_size() -> None:
    model = tiny_model("llama", 4)
    logits = torch.tensor([3.0, -4.0, float("inf")])
    roundings = 4 * _STEPS_PER_LAYER
    wide = rounding_bound(model, 4, logits)
    assert wide == pytest.approx((roundings * model.config.hidden_size) ** 0.5 * 2**-24 * 4)
    half = rounding_bound(model.to(torch.bfloat16), 4, logits)
    assert half == pytest.approx(roundings**0.5 * 2**-8 * 4)
    assert rounding_bound(model, 4, torch.zeros(3)) == 0


def test_greedy_tokens_may_part_at_a_tie_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [torch.tensor([0.0, 5.0, 4.0]), torch.tensor([1.0, 0.75, 0.0])]
    texts = {
        "ours": torch.tensor([1, 0]),
        "tie": torch.tensor([1, 1]),
        "wrong": torch.tensor([2, 0]),
    }
    monkeypatch.setattr("boomerang.verify._greedy", lambda model, ids: (texts[model], scores))
    ids = torch.zeros(1, 1)
    assert _compare_greedy("ours", "ours", ids, 0.0) == (2, True)  # type: ignore[arg-type]
    assert _compare_greedy("ours", "tie", ids, 0.125) == (1, True)  # type: ignore[arg-type]
    assert _compare_greedy("ours", "tie", ids, 0.12) == (1, False)  # type: ignore[arg-type]
    assert _compare_greedy("ours", "wrong", ids, 0.125) == (0, False)  # type: ignore[arg-type]


def test_the_command_says_pass_or_the_first_difference(member: Path, tmp_path: Path) -> None:
    passed = CliRunner().invoke(app, ["verify", str(member)])
    assert passed.exit_code == 0
    assert "pass" in passed.stdout
    wrong = altered(member, tmp_path, "lm_head.weight", torch.zeros_like)
    failed = CliRunner().invoke(app, ["verify", str(wrong)])
    assert failed.exit_code == 1
    assert "FAIL: tensor lm_head.weight differs" in failed.stdout


@pytest.mark.parametrize(
    ("key", "value"), [("intermediate_size", 40), ("num_key_value_heads", 4), ("hidden_size", "32")]
)
def test_a_config_that_lies_in_both_models_is_found(
    key: str, value: object, tmp_path: Path
) -> None:
    """Between the two nothing shows, so the member is built; loading it shows the lie."""
    for path in save_pair(tmp_path, "llama"):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {key: value}))
    command = ["build", *(str(tmp_path / name) for name in ("teacher", "student", "member"))]
    built = CliRunner().invoke(app, [*command, "--patch", "1"])
    assert built.exit_code == 0
    assert built.stderr.splitlines()[-1] == (
        f"`boomerang verify {tmp_path / 'member'}` checks the result by loading it"
    )
    with pytest.raises(
        CheckpointError, match=r"member: (tensor .* its config|cannot be)"
    ) as caught:
        verify(tmp_path / "member")
    assert "\n" not in str(caught.value)


def test_a_tensor_that_every_layer_lacks_is_found(tmp_path: Path) -> None:
    for path in save_pair(tmp_path, "llama"):
        weights = load_file(path / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "up_proj" not in name}
        save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    out = build(tmp_path / "teacher", tmp_path / "student", tmp_path / "member", patch=1)
    with pytest.raises(CheckpointError, match=r"member: lacks tensors .*up_proj"):
        verify(out)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_source_that_has_changed_is_named_before_any_tensor(role: str, tmp_path: Path) -> None:
    """A step of training changes every tensor; the member is not to blame."""
    pair = dict(zip(("teacher", "student"), save_pair(tmp_path, "llama"), strict=True))
    out = build(*pair.values(), tmp_path / "member", patch=1)
    old = shutil.copytree(pair[role], tmp_path / "old")
    weights = load_file(pair[role] / "model.safetensors")
    trained = {name: tensor + 1e-3 for name, tensor in weights.items()}
    save_file(trained, pair[role] / "model.safetensors", metadata={"format": "pt"})
    failed = CliRunner().invoke(app, ["verify", str(out)])
    assert isinstance(failed.exception, CheckpointError)
    said = str(failed.exception)
    assert said.startswith(f"{pair[role]}: has changed since the member was built")
    assert f"--{role}" in said and "tensor" not in said
    assert verify(out, **{role: old}).passed


def test_the_sources_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pair(tmp_path / "models", "llama")
    monkeypatch.chdir(tmp_path / "models")
    build("teacher", "student", tmp_path / "member", patch=1)
    monkeypatch.chdir(tmp_path)
    assert verify("member").passed


def test_a_directory_that_was_not_built_or_another_pair_is_refused(
    member: Path, stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"boomerang\.json"):
        verify(stories)
    other = save_models(tmp_path, *tiny_pair("qwen3", kept=(0, 2), num_layers=4))
    with pytest.raises(LayerMapError):
        verify(member, teacher=other[0], student=other[1])
    record = json.loads((member / "boomerang.json").read_text())
    for key, value in (("schema_version", 99), ("kept_layers", None)):
        (tmp_path / "boomerang.json").write_text(json.dumps(record | {key: value}))
        with pytest.raises(CheckpointError):
            read_record(tmp_path)
