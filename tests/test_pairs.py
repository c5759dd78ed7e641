"""Published pairs as they are: look-alikes of them through every command that opens a pair."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

import boomerang
from boomerang.checkpoint.loading import load_model
from boomerang.cli import _show_warning, app
from boomerang.errors import BoomerangWarning
from boomerang.verify import verify
from published import PAIRS, PROMPT, write_pair

Paths = tuple[Path, Path]

CASES = [
    ("qwen3", "4.51"), ("qwen3", "5"), ("gpt_neox", "4.51"), ("gpt_neox", "5"), ("llama", "4.51"),
    ("llama", "5"), ("gpt2", "old"),
]  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::boomerang.errors.BoomerangWarning")


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Paths]:
    name, style = request.param
    return name, write_pair(tmp_path_factory.mktemp(name), name, style)


def keep(name: str) -> list[str]:
    """What has to be said about a pair besides its names."""
    pair = PAIRS[name]
    return [] if pair.says_layers else ["--keep", ",".join(map(str, pair.kept))]


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def test_sizes(case: tuple[str, Paths]) -> None:
    name, paths = case
    result = call("sizes", *paths, *keep(name), "--json")
    rows, pair = json.loads(result.stdout), PAIRS[name]
    layers = boomerang.LayerMap(pair.kept, pair.num_layers)
    assert len(rows) == layers.max_patch + 1
    assert {row["order"] for row in rows} == {pair.order}
    assert {row["order_source"] for row in rows} == {"paper"}
    assert f"order {pair.order}, the paper's for {name}" in result.stderr
    # What is counted is what the config speaks of: a tied head is no matrix of its own.
    student = load_model(paths[1])
    assert rows[0]["parameters"] == sum(p.numel() for p in student.parameters())


def test_every_member_is_the_same_on_disk_and_in_memory(
    case: tuple[str, Paths], tmp_path: Path
) -> None:
    name, paths = case
    pair = PAIRS[name]
    ids = torch.arange(3, 40)[None]
    kept = None if pair.says_layers else pair.kept
    family = boomerang.Family.from_pretrained(*paths, keep=kept)
    assert family.layers.kept == pair.kept and family.order == pair.order
    for k in (0, 1, family.layers.max_patch):
        out = boomerang.build(*paths, tmp_path / str(k), patch=k, keep=kept)
        result = verify(out)
        assert result.passed, result.difference
        with torch.no_grad():
            expected = family.model(patch=k)(ids).logits
            assert torch.allclose(load_model(out)(ids).logits, expected, atol=1e-5)
        assert not any("inv_freq" in key or key.endswith((".attn.bias", ".attention.bias"))
                       for key in load_file(out / "model.safetensors"))  # fmt: skip
        record = json.loads((out / "boomerang.json").read_text())
        assert record["kept_layers"] == list(pair.kept)
        assert (record["order"], record["order_source"]) == (pair.order, "paper")


def test_the_ends_of_the_family_are_the_two_models(case: tuple[str, Paths]) -> None:
    """As plain transformers loads them and ties what their configs tie."""
    name, paths = case
    pair = PAIRS[name]
    family = boomerang.Family.from_pretrained(
        *paths, keep=None if pair.says_layers else pair.kept, dtype=torch.float32
    )
    ids = torch.arange(3, 40)[None]
    for path, model in zip(
        paths, (family.model(patch=family.layers.max_patch), family.model(patch=0)), strict=True
    ):
        with torch.no_grad():
            plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            plain.tie_weights()
            assert torch.equal(plain(ids).logits, model(ids).logits)


def test_generate_build_verify_and_evaluate(case: tuple[str, Paths], tmp_path: Path) -> None:
    name, paths = case
    said = f"order {PAIRS[name].order}, the paper's for {name}"
    spoken = call("generate", *paths, PROMPT, "--patch", 1, "--max-new-tokens", 2, *keep(name))
    assert PROMPT in spoken.stdout and said in spoken.stderr
    out = tmp_path / "out"
    assert said in call("build", *paths, out, "--patch", 2, *keep(name)).stderr
    assert "pass" in call("verify", out).stdout
    text = tmp_path / "text.txt"
    text.write_text("the sea was the sea. " * 20)
    results = call(
        "evaluate", *paths, tmp_path / "results", "--text", text, "--json", "--members", "0,2",
        *keep(name),
    )  # fmt: skip
    rows = [json.loads(line) for line in results.stdout.splitlines()]
    values = [row["value"] for row in rows if row["metric"] == "perplexity"]
    assert len(values) == 2 and all(1 < value < 1e6 for value in values)
    assert said in results.stderr
    found = json.loads((tmp_path / "results" / "family.json").read_text())
    assert found["kept_layers"] == list(PAIRS[name].kept)


def test_the_other_commands_on_a_student_that_says_nothing(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, "gpt2")
    text = tmp_path / "text.txt"
    text.write_text("the sea was the sea. " * 20)
    listed = ("--keep", "0,2,4,7,9,11")
    found = json.loads(call("inspect", *paths, "--text", text, "--json", *listed).stdout)
    assert "0, 2, 4, 7, 9, 11" in json.dumps(found)
    results = tmp_path / "results"
    call("evaluate", *paths, results, "--text", text, "--members", "0,2", *listed)
    naive = call(
        "baseline", "naive", *paths, results, "--text", text, "--layers", 8, "--json", *listed
    )
    assert {json.loads(line)["series"] for line in naive.stdout.splitlines()} == {"naive"}
    # Only the order of patching is of consequence: the student stands in for a control.
    control = call(
        "baseline", "random", *paths, results, "--text", text, "--layers", 8, "--json", *listed
    )
    assert {json.loads(line)["series"] for line in control.stdout.splitlines()} == {"random"}
    for said in (naive.stderr, control.stderr):
        assert said.splitlines()[-1].startswith("order last-to-first, the paper's for gpt2")
    given = call(
        "baseline", "naive", *paths, results, "--text", text, "--layers", 8, *listed,
        "--order", "last-to-first",
    )  # fmt: skip
    assert "order " not in given.stderr
    call("report", results, tmp_path / "report.html")
    assert "naive" in (tmp_path / "report.html").read_text()
    # A cut of the teacher says its layers itself.
    call("init", paths[0], tmp_path / "cut", *listed)
    assert len(json.loads(call("sizes", paths[0], tmp_path / "cut", "--json").stdout)) == 6


def test_a_recorded_order_comes_first(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, "llama")
    path = paths[1] / "student_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"order": [4, 0, 1, 2, 3]}))
    result = call("build", *paths, tmp_path / "out", "--patch", 1)
    assert "order [4, 0, 1, 2, 3], recorded with the student" in result.stderr
    record = json.loads((tmp_path / "out" / "boomerang.json").read_text())
    assert (record["order"], record["order_source"]) == ([4, 0, 1, 2, 3], "recorded")
    given = call("build", *paths, tmp_path / "b", "--patch", 1, "--order", "last-to-first")
    assert "order " not in given.stderr
    record = json.loads((tmp_path / "b" / "boomerang.json").read_text())
    assert (record["order"], record["order_source"]) == ("last-to-first", "given")


# An output matrix beside a config that ties it.


def test_a_head_that_the_config_ties_is_left_out_with_a_warning(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, "qwen3")
    with pytest.warns(BoomerangWarning, match=r"student: has an output matrix that differs"):
        rows = json.loads(call("sizes", *paths, "--json").stdout)
    with pytest.warns(BoomerangWarning, match="config is followed"):
        student = load_model(paths[1])
    matrix, table = student.get_output_embeddings().weight, student.get_input_embeddings().weight
    assert matrix is table
    student.tie_weights()
    assert student.get_output_embeddings().weight is table
    assert rows[0]["parameters"] == sum(p.numel() for p in student.parameters())


def test_a_warning_is_one_line(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, "qwen3")
    done = subprocess.run(
        [sys.executable, "-m", "boomerang", "sizes", *paths, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    warned, order = done.stderr.splitlines()
    assert warned.startswith(f"boomerang: warning: {paths[1]}: has an output matrix")
    assert order.startswith("order last-to-first")


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Of one model `evaluate` warns when it is loaded and when its header is read."""
    for _ in range(2):
        _show_warning(warnings.showwarning, BoomerangWarning("student: has a matrix"))
    assert capsys.readouterr().err == "boomerang: warning: student: has a matrix\n"


def test_an_equal_head_is_nothing_to_speak_of(tmp_path: Path) -> None:
    paths = write_pair(tmp_path, "qwen3")
    stored = paths[1] / "model-00001-of-00002.safetensors"
    tensors = load_file(stored)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, stored, {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", BoomerangWarning)
        call("build", *paths, tmp_path / "out", "--patch", 0)
        load_model(paths[1])


def test_a_head_is_the_config_s_business_alone(tmp_path: Path) -> None:
    """Where the config says that they are two, the stored matrix is used."""
    paths = write_pair(tmp_path, "qwen3")
    for path in paths:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": None}))
    path = paths[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))
    out = boomerang.build(*paths, tmp_path / "out", patch=0, dtype="float32")
    head = load_file(out / "model.safetensors")["lm_head.weight"]
    stored = load_file(paths[1] / "model-00001-of-00002.safetensors")["lm_head.weight"]
    assert torch.equal(head, stored)
