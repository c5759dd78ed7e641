"""Pairs whose student does not say which layers it keeps: given, known, proposed; never guessed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import boomerang
from boomerang.baselines.bench import Bench
from boomerang.checkpoint.directory import Checkpoint
from boomerang.checkpoint.kept_layers_proposal import propose
from boomerang.checkpoint.known_pairs import KNOWN_PAIRS, hub_id
from boomerang.checkpoint.sources import Sources
from boomerang.cli import app
from boomerang.errors import ArchitectureError, BoomerangError, CheckpointError, LayerMapError
from boomerang.verify import verify
from disk import save_pair
from published import PAIRS, write_json, write_pair, write_shards, write_tokenizer

Paths = tuple[Path, Path]
KEPT = (0, 1, 3, 5)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A pair like GPT-2's, whose student has no `student_config.json`."""
    return write_pair(tmp_path_factory.mktemp("silent"), "gpt2")


@pytest.fixture
def pair(tmp_path: Path) -> Paths:
    """A pair of which tests may change what they like; the student keeps `KEPT` of 7."""
    return save_pair(tmp_path, "llama")


def change(directory: Path, edit: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    path = directory / "model.safetensors"
    tensors = {name: edit(name, tensor) for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


# What is given.


def test_keep_wins_over_nothing_else(pair: Paths, tmp_path: Path) -> None:
    """It may repeat what the student says, and not contradict it."""
    assert Sources.open(*pair, keep=KEPT).layers.kept == KEPT
    write_tokenizer(pair[0])
    text = tmp_path / "text.txt"
    text.write_text("one two three")
    for command in (
        ["sizes", *pair], ["generate", *pair, "x"], ["build", *pair, tmp_path / "out", "--all"],
        ["evaluate", *pair, tmp_path / "out", "--text", text],
        ["inspect", *pair, "--text", text],
        ["baseline", "naive", *pair, tmp_path / "out", "--text", text],
    ):  # fmt: skip
        with pytest.raises(BoomerangError, match=r"keeps layers 0,1,3,5, not 0,2,4,5"):
            call(*command, "--keep", "0,2,4-5")
    assert not (tmp_path / "out").exists()


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((0, 2, 4, 7, 9), "kept layers make it 5"),
        ((0, 2, 4, 7, 9, 12), "12 is out of range"),
        ((0, 2, 2, 7, 9, 11), "repeated"),
    ],
)
def test_a_list_that_is_no_plan(keep: tuple[int, ...], message: str, silent: Paths) -> None:
    for run in (boomerang.Family.from_pretrained, boomerang.build):
        out = () if run is not boomerang.build else (silent[0].parent / "out",)
        with pytest.raises(LayerMapError, match=message):
            run(*silent, *out, keep=keep, **({"patch": 1} if out else {}))


def test_another_teachers_student_has_no_baselines(silent: Paths, pair: Paths) -> None:
    with pytest.raises(LayerMapError, match=r"teacher has 12 layers and the kept layers make it 7"):
        Bench.open(silent[0], pair[1])


def test_a_member_of_such_a_pair_is_verified(silent: Paths, tmp_path: Path) -> None:
    out = boomerang.build(*silent, tmp_path / "out", patch=2, keep=PAIRS["gpt2"].kept)
    assert verify(out).passed
    record = json.loads((out / "boomerang.json").read_text())
    (out / "boomerang.json").write_text(json.dumps(record | {"kept_layers": [0, 1, 2, 3, 9, 11]}))
    assert not verify(out).passed


# What is known.


def in_cache(silent: Paths, cache: Path, *names: str) -> list[Path]:
    """The pair as if it had come from the hub under these names."""
    found = []
    for source, name in zip(silent, names, strict=True):
        target = cache / f"models--{name.replace('/', '--')}" / "snapshots" / ("0" * 40)
        shutil.copytree(source, target)
        found.append(target)
    return found


@pytest.mark.parametrize("known", KNOWN_PAIRS, ids=lambda known: known.student)
def test_a_known_pair_needs_no_list(known: Any, silent: Paths, tmp_path: Path) -> None:
    teacher, student = in_cache(silent, tmp_path, known.teacher, known.student)
    assert (hub_id(teacher), hub_id(student)) == (known.teacher, known.student)
    assert Sources.open(teacher, student).layers.kept == known.kept
    assert known.source
    with pytest.raises(CheckpointError, match="no known pair's student"):
        Sources.open(silent[0], student)
    # What the user says is what the user means.
    assert Sources.open(teacher, student, keep=range(6)).layers.kept == tuple(range(6))


# What is proposed.


def test_trained_layers_are_told_by_nearness(silent: Paths, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "boomerang", "build", *silent, tmp_path / "out", "--patch", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "nearest to teacher layers 0,2,4,7,9,11 (mean relative squared diff" in done.stderr
    assert "give --keep 0,2,4,7,9,11" in done.stderr
    assert not (tmp_path / "out").exists()


def test_untrained_layers_are_told_for_certain(pair: Paths) -> None:
    """One matrix in each is enough, in whatever dtype the student was saved."""
    theirs = load_file(pair[0] / "model.safetensors")

    def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.endswith("o_proj.weight"):
            return torch.randn(tensor.shape)
        layer = KEPT[int(name.split(".")[2])]
        return theirs[f"model.layers.{layer}.self_attn.o_proj.weight"].double()

    change(pair[1], edit)
    (pair[1] / "student_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"are bitwise those of teacher layers 0,1,3,5; if"):
        Sources.open(*pair)


def test_random_layers_are_no_answer(pair: Paths) -> None:
    torch.manual_seed(0)
    change(pair[1], lambda _, tensor: 0.2 * torch.randn(tensor.shape))
    (pair[1] / "student_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no clear answer\); say which .* --keep 0,2,4$"):
        Sources.open(*pair)


def test_the_margin_is_that_of_the_least_certain_layer(pair: Paths) -> None:
    """Student layer 2 is halfway between teacher layers 2 and 3."""
    theirs = load_file(pair[0] / "model.safetensors")

    def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.startswith("model.layers.2."):
            return tensor
        rest = name.removeprefix("model.layers.2.")
        return 0.45 * theirs[f"model.layers.2.{rest}"] + 0.55 * theirs[f"model.layers.3.{rest}"]

    before = propose(*map(Checkpoint.open, pair))
    change(pair[1], edit)
    found = propose(*map(Checkpoint.open, pair))
    assert before is not None and found is not None
    assert before.kept == found.kept == KEPT
    assert found.weakest == 2 and found.next_best is not None and before.next_best is not None
    assert found.nearest / found.next_best > 0.6 > 0.2 > before.nearest / before.next_best


def test_what_cannot_be_compared_is_not_proposed(pair: Paths, tmp_path: Path) -> None:
    other = save_pair(tmp_path / "other", "gpt2")[1]
    (other / "student_config.json").unlink()
    for student in (other, tmp_path / "empty"):
        student.mkdir(exist_ok=True)
        with pytest.raises(CheckpointError, match=r"say which .* such as --keep 0,2,4$"):
            Sources.open(pair[0], student)
    # Deeper than its teacher.
    with pytest.raises(CheckpointError, match="say which"):
        (pair[1] / "student_config.json").unlink()
        Sources.open(pair[1], pair[0])


# Tokenizers.


def tokenizer(edit: Callable[[dict[str, Any]], None], path: Path) -> None:
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


def swap(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap, r"token 'a' is number 6 and number 5 there"),
        (lambda c: c["model"]["vocab"].pop("z"), "token 'z' is missing and number 30 there"),
        (lambda c: c["model"]["merges"].reverse(), "merge 0 is 'th e' and 't h' there"),
        (lambda c: c["model"]["merges"].pop(), "merge 1 is missing and 'th e' there"),
        (
            lambda c: c["added_tokens"].append({"id": 97, "content": "<tool>"}),
            "token '<tool>' is number 97 and missing there",
        ),
        (lambda c: c["model"].update(type="Unigram"), "it is a 'Unigram', the teacher's a 'BPE'"),
    ],
)
def test_other_tokenizers_are_refused(
    edit: Callable[[dict[str, Any]], None], message: str, silent: Paths, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(silent[1], student)
    tokenizer(edit, student / "tokenizer.json")
    with pytest.raises(ArchitectureError, match=message):
        Sources.open(silent[0], student, keep=PAIRS["gpt2"].kept)


def test_what_leaves_numbers_alone_may_differ(silent: Paths, tmp_path: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content |= {"version": "0.9", "post_processor": None, "truncation": {"max_length": 8}}
        content["model"]["merges"] = [" ".join(m) for m in content["model"]["merges"]]
        # Of two places where a special token may stand, older files use the other.
        del content["model"]["vocab"]["<eos>"]

    student = tmp_path / "student"
    shutil.copytree(silent[1], student)
    tokenizer(edit, student / "tokenizer.json")
    Sources.open(silent[0], student, keep=PAIRS["gpt2"].kept)


@pytest.mark.parametrize(
    "content",
    [
        "[", "[]", '{"added_tokens": ["<s>"]}', '{"added_tokens": 7}', '{"model": {"vocab": "a"}}',
        '{"model": {"vocab": [1]}}', '{"model": {"merges": [3]}}', '{"model": [1]}',
    ],
)  # fmt: skip
def test_what_is_no_tokenizer_is_refused(content: str, silent: Paths, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(silent[1], student)
    (student / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"student/tokenizer.json: .* JSON of a tokenizer$"):
        Sources.open(silent[0], student, keep=PAIRS["gpt2"].kept)


def test_a_tokenizer_that_was_not_downloaded_is_refused(silent: Paths, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(silent[1], student)
    (student / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: is a Git LFS pointer"):
        Sources.open(silent[0], student, keep=PAIRS["gpt2"].kept)


def test_other_vocabularies_are_refused(silent: Paths, tmp_path: Path) -> None:
    student = tmp_path / "student"
    shutil.copytree(silent[1], student)
    change(
        student, lambda name, tensor: tensor[:90].clone() if tensor.shape[:1] == (97,) else tensor
    )
    config = json.loads((student / "config.json").read_text())
    write_json(student / "config.json", config | {"vocab_size": 90})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (student / name).unlink()
    with pytest.raises(ArchitectureError, match=r"wte.weight' is F32 90x32 .* F32 97x32"):
        boomerang.build(silent[0], student, tmp_path / "out", patch=1, keep=PAIRS["gpt2"].kept)


def test_shards_of_a_silent_student(silent: Paths, tmp_path: Path) -> None:
    """All there, they are compared; with one missing there is nothing to compare."""
    student = tmp_path / "student"
    shutil.copytree(silent[1], student)
    tensors = load_file(student / "model.safetensors")
    (student / "model.safetensors").unlink()
    write_shards(student, tensors)
    with pytest.raises(CheckpointError, match="give --keep 0,2,4,7,9,11"):
        Sources.open(silent[0], student)
    (student / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="such as --keep"):
        Sources.open(silent[0], student)
