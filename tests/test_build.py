"""Members built from bytes: equal to those in memory, complete or absent, the same every time."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import boomerang
from boomerang.checkpoint.header import Tensor, read_header
from boomerang.checkpoint.member_files import Item
from boomerang.checkpoint.output import new_directory
from boomerang.checkpoint.student_config import write_student_config
from boomerang.checkpoint.write import header
from boomerang.errors import CheckpointError, LayerMapError, OutputError
from boomerang.family import Family
from boomerang.layers import FIRST_TO_LAST, LAST_TO_FIRST
from disk import save_models, save_pair
from tiny_models import ARCHITECTURES, tiny_pair

TOKENS = torch.arange(40).reshape(2, 20)


def load(directory: Path) -> PreTrainedModel:
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, dtype="auto", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(TOKENS).logits


def config_of(model: PreTrainedModel) -> dict[str, Any]:
    # Not of the model: where it was read from, and what wrote it.
    return {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version", "architectures")
    }


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equals_the_member_in_memory(name: str, tied: bool, tmp_path: Path) -> None:
    models = tiny_pair(name, tied)
    teacher, student = save_models(tmp_path, *models)
    family = Family(*models)
    members = {
        member.patched: member
        for order in (FIRST_TO_LAST, LAST_TO_FIRST)
        for member in family.layers.members(order)
    }
    for member in members.values():
        out = tmp_path / f"member{''.join(map(str, member.patched))}"
        boomerang.build(teacher, student, out, blocks=member.patched)
        built, expected = load(out), family.model(member)
        assert torch.equal(logits(built), logits(expected))
        assert config_of(built) == config_of(expected)
        with safe_open(out / "model.safetensors", "pt") as file:
            names = set(file.keys())
        same_owner = member.embedding == member.head
        assert expected.config.tie_word_embeddings == (tied and same_owner)
        assert ("lm_head.weight" in names or "embed_out.weight" in names) != (tied and same_owner)


def test_published_formats_are_read(golden_pair: Path, tmp_path: Path) -> None:
    """Checkpoints and configs that transformers 4.51 wrote."""
    teacher, student = golden_pair / "teacher", golden_pair / "student"
    family = Family.from_pretrained(teacher, student)
    for order in (FIRST_TO_LAST, LAST_TO_FIRST):
        out = boomerang.build(teacher, student, tmp_path / order, patch=1, order=order)
        built, expected = load(out), family.model(1, order)
        assert torch.equal(logits(built), logits(expected))
        assert config_of(built) == config_of(expected)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tied llama in directories that tests leave as they are."""
    teacher, student = save_pair(tmp_path_factory.mktemp("pair"), "llama", tied=True)
    for name, text in COMPANIONS.items():
        (teacher / name).write_text(text)
    (teacher / "pytorch_model.bin").write_bytes(b"never copied")
    (teacher / "modeling_custom.py").write_text("never copied")
    (teacher / "README.md").write_text(CARD)
    return teacher, student


COMPANIONS = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": '{"a": 1}',
    "special_tokens_map.json": "{}",
    "vocab.json": "{}",
    "merges.txt": "a b",
    "chat_template.jinja": "{{ x }}",
    "preprocessor_config.json": "{}",
    "LICENSE": "terms",
}
CARD = """---
license: other
license_name: tiny
license_link: https://example.org/terms
tags: [a, b]
---
# Tiny
"""


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def nothing_but(directory: Path, *names: str) -> bool:
    return {path.name for path in directory.iterdir()} == set(names)


def test_what_lies_beside_the_weights(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = boomerang.build(*pair, tmp_path / "out", patch=1)
    files = content(out)
    own = {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "boomerang.json",
        "README.md",
    }
    assert files.keys() == own | COMPANIONS.keys()
    assert all(files[name].decode() == text for name, text in COMPANIONS.items())
    assert files["generation_config.json"] == (pair[0] / "generation_config.json").read_bytes()
    assert out.stat().st_mode & 0o777 == pair[0].stat().st_mode & 0o777


def test_the_same_inputs_give_the_same_bytes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first = content(boomerang.build(*pair, tmp_path / "a", patch=1))
    assert content(boomerang.build(*pair, tmp_path / "elsewhere" / "b", patch=1)) == first


def test_a_directory_has_one_name_in_the_record(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content(boomerang.build(*pair, tmp_path / "a", patch=1))
    (tmp_path / "link").symlink_to(pair[0])
    monkeypatch.chdir(pair[0].parent)
    for i, spelling in enumerate(
        ("teacher", "./teacher/", "student/../teacher", tmp_path / "link")
    ):
        out = boomerang.build(spelling, "student", tmp_path / str(i), patch=1)
        assert content(out) == first


def test_the_record_repeats_the_build(pair: tuple[Path, Path], tmp_path: Path) -> None:
    order = [2, 0, 3, 1]
    (tmp_path / "order.json").write_text(json.dumps(order))
    out = boomerang.build(
        *pair,
        tmp_path / "a",
        patch=2,
        order=tmp_path / "order.json",
        dtype="float16",
        max_shard_size="9KB",
    )
    record = json.loads((out / "boomerang.json").read_text())
    assert record["schema_version"] == 1
    assert record["kept_layers"] == [0, 1, 3, 5]
    assert record["patched_layers"] == [0, 2, 3]
    assert record["order"] == order
    assert record["teacher"]["id"] == str(pair[0].resolve())
    assert record["teacher"]["fingerprint"] != record["student"]["fingerprint"]
    again = boomerang.build(
        record["teacher"]["id"],
        record["student"]["id"],
        tmp_path / "b",
        patch=record["patch"],
        order=record["order"],
        **record["options"],
    )
    assert content(again) == content(out)


def test_the_fingerprint_sees_a_changed_weight(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(pair[1], tmp_path / "student")
    path = tmp_path / "student" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.2.mlp.up_proj.weight"][0, 3] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    records = [
        json.loads(
            (
                boomerang.build(pair[0], student, tmp_path / name, patch=0) / "boomerang.json"
            ).read_text()
        )
        for name, student in (("a", pair[1]), ("b", tmp_path / "student"))
    ]
    assert records[0]["student"]["fingerprint"] != records[1]["student"]["fingerprint"]
    assert records[0]["teacher"] == records[1]["teacher"]


def test_the_card_names_licence_and_origin(pair: tuple[Path, Path], tmp_path: Path) -> None:
    text = (boomerang.build(*pair, tmp_path / "out", patch=1) / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "other"
    assert front["license_name"] == "tiny"
    assert front["license_link"] == "https://example.org/terms"
    assert front["library_name"] == "transformers"
    # Of directories the name alone: a card is for strangers.
    assert "| Teacher | `teacher`, a local checkpoint, 7 layers |" in text
    assert "| Student | `student`, a local checkpoint, 4 layers |" in text
    assert str(pair[0].parent) not in text
    assert "2510.05064" in text


@pytest.mark.parametrize(
    "card", ["", "---\nlicense: mit", "---\n[\n---\n", "---\n- a\n---\n", "---\nlicense: [1]\n---"]
)
def test_a_broken_card_of_the_teacher_does_no_harm(card: str, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    (teacher / "README.md").write_text(card)
    text = (boomerang.build(teacher, student, tmp_path / "out", patch=1) / "README.md").read_text()
    assert "names no licence" in text


def test_hub_models_are_named_with_their_commit(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    for path, name in zip(pair, ("teacher", "student"), strict=True):
        repository = cache / f"models--owner--{name}"
        snapshot = repository / "snapshots" / (name[0] * 40).replace("t", "a").replace("s", "b")
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir()
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(snapshot.name)
        for file in path.iterdir():
            shutil.copy(file, repository / "blobs" / f"blob-{file.name}")
            (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    out = boomerang.build("owner/teacher", "owner/student@main", tmp_path / "out", patch=1)
    record = json.loads((out / "boomerang.json").read_text())
    assert record["teacher"]["id"] == "owner/teacher"
    assert record["teacher"]["revision"] == "a" * 40
    assert record["student"]["revision"] == "b" * 40
    assert "base_model:\n- owner/teacher\n- owner/student\n" in (out / "README.md").read_text()
    expected = content(boomerang.build(*pair, tmp_path / "expected", patch=1))
    assert (out / "model.safetensors").read_bytes() == expected["model.safetensors"]
    assert not any(path.is_symlink() for path in out.iterdir())


# Shards


def test_shards_are_those_of_transformers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = boomerang.build(*pair, tmp_path / "out", patch=1, max_shard_size="20KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    model = load(out)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    theirs = json.loads((tmp_path / "theirs" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == theirs["metadata"]
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    names = sorted(path.name for path in out.glob("*.safetensors"))
    assert names == [
        f"model-{i:05d}-of-{len(names):05d}.safetensors" for i in range(1, len(names) + 1)
    ]
    assert len(names) > 3
    for name in names:
        tensors = load_file(out / name)
        assert tensors.keys() == {t for t, file in index["weight_map"].items() if file == name}
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 20_000 or len(tensors) == 1


def test_one_file_is_what_safetensors_writes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = boomerang.build(*pair, tmp_path / "out", patch=1)
    path = out / "model.safetensors"
    save_file(load_file(path), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert path.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_sharded_in_is_the_same_as_whole_in(pair: tuple[Path, Path], tmp_path: Path) -> None:
    models = tiny_pair("llama", tied=True)
    sharded = save_models(tmp_path, *models, max_shard_size="20KB")
    assert (sharded[0] / "model.safetensors.index.json").exists()
    expected = (boomerang.build(*pair, tmp_path / "a", patch=1) / "model.safetensors").read_bytes()
    found = (boomerang.build(*sharded, tmp_path / "b", patch=1) / "model.safetensors").read_bytes()
    assert found == expected


@pytest.mark.parametrize("reason", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, None])
def test_without_copy_file_range(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int | None
) -> None:
    expected = content(boomerang.build(*pair, tmp_path / "a", patch=1))

    def refuse(*_: object, **__: object) -> int:
        if reason is None:
            return 0
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr("boomerang.checkpoint.write._BUFFER", 1000)
    assert content(boomerang.build(*pair, tmp_path / "b", patch=1)) == expected


def test_a_large_file_keeps_its_place_in_the_page(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files are synced while they are written, and begin where copying is fastest."""
    small = boomerang.build(*pair, tmp_path / "small", patch=2) / "model.safetensors"
    monkeypatch.setattr("boomerang.checkpoint.write._FLUSH", 1000)
    large = boomerang.build(*pair, tmp_path / "large", patch=2) / "model.safetensors"
    a, b = read_header(small), read_header(large)
    assert [(t.name, t.shape, t.length) for t in a.values()] == [
        (t.name, t.shape, t.length) for t in b.values()
    ]
    found, expected = load_file(large), load_file(small)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    name = "model.layers.0.mlp.up_proj.weight"
    source = read_header(pair[0] / "model.safetensors")
    kept = [t for n, t in b.items() if n in source and t.start % 4096 == source[n].start % 4096]
    assert name in {tensor.name for tensor in kept}


# Complete or absent


def test_a_full_disk_is_seen_before(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**6, 10**6 - 100, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="GB left"):
        boomerang.build(*pair, tmp_path / "out", patch=1)
    assert nothing_but(tmp_path)


@pytest.mark.parametrize("flush", [1000, 10**9])
@pytest.mark.parametrize("call", ["copy_file_range", "write", "fsync"])
def test_a_disk_that_fills_up_leaves_nothing(
    call: str, flush: int, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)
    calls = itertools.count()

    def full(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr("boomerang.checkpoint.write._FLUSH", flush)
    monkeypatch.setattr(os, call, full)
    dtype = "bfloat16" if call == "write" else None
    with pytest.raises(OutputError, match=r"[Nn]o space"):
        boomerang.build(*pair, tmp_path / "out", patch=1, dtype=dtype)
    assert nothing_but(tmp_path)


def test_outputs_that_are_in_the_way(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for out, word in (("file", "is a file"), ("full", "not empty"), ("file/below", "cannot be")):
        with pytest.raises(OutputError, match=word):
            boomerang.build(*pair, tmp_path / out, patch=1)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "file").read_text() == "mine"
    boomerang.build(*pair, tmp_path / "empty", patch=1)
    (tmp_path / "full" / "file").rename(tmp_path / "full" / "boomerang.json")
    boomerang.build(*pair, tmp_path / "full", patch=1, overwrite=True)
    assert content(tmp_path / "full") == content(tmp_path / "empty")
    assert nothing_but(tmp_path, "file", "full", "empty")


def test_a_target_within_a_source_is_refused(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path / "models", "llama")
    before = content(teacher)
    (tmp_path / "link").symlink_to(teacher)
    for out in (teacher, student, teacher / "member", tmp_path / "models", tmp_path / "link" / "x"):
        with pytest.raises(OutputError):
            boomerang.build(teacher, student, out, patch=1, overwrite=True)
    assert content(teacher) == before


def test_a_broken_source_leaves_nothing(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path / "models", "llama")
    path = teacher / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)
    assert nothing_but(tmp_path, "models")


@pytest.mark.parametrize("kept", [False, True])
def test_parents_made_for_a_failed_build_go_again(
    kept: bool, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those it made, and only if nobody has put anything there."""
    (tmp_path / "mine").mkdir()
    out = tmp_path / "mine" / "new" / "newer" / "out"

    def fail(*_: object) -> None:
        if kept:
            (tmp_path / "mine" / "new" / "other").write_text("")
        raise OutputError("failed")

    monkeypatch.setattr("boomerang.checkpoint.output.write_json", fail)
    with pytest.raises(OutputError, match="failed"):
        boomerang.build(*pair, out, patch=1)
    assert nothing_but(tmp_path, "mine")
    assert nothing_but(tmp_path / "mine", *["new"] * kept)
    assert not kept or nothing_but(tmp_path / "mine" / "new", "other")
    with pytest.raises(OutputError, match="cannot be"):
        boomerang.build(*pair, tmp_path / "made" / ("x" * 300) / "out", patch=1)
    assert nothing_but(tmp_path, "mine")


def test_a_source_that_shrinks_meanwhile_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = save_pair(tmp_path / "models", "llama")
    path = teacher / "model.safetensors"
    monkeypatch.setattr(
        "boomerang.checkpoint.output.check_space", lambda *_: os.truncate(path, 4000)
    )
    with pytest.raises(CheckpointError, match="shorter"):
        boomerang.build(teacher, student, tmp_path / "out", patch=1)
    assert nothing_but(tmp_path, "models")


BUILD = """
import os, sys, time, boomerang
copy = os.copy_file_range
def slowly(*args, **kwargs):
    time.sleep(0.003)
    return copy(*args, **kwargs)
os.copy_file_range = slowly
boomerang.build(*sys.argv[1:4], patch=1, overwrite=True)
"""


def run_build(*paths: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BUILD, *map(str, paths)])


def test_a_kill_at_any_moment_leaves_all_or_nothing(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = content(boomerang.build(*pair, tmp_path / "expected", patch=1))
    out = tmp_path / "out"
    process = run_build(*pair, out)
    start = time.monotonic()
    assert process.wait() == 0
    duration = time.monotonic() - start
    shutil.rmtree(out)
    rng = random.Random(0)
    interrupted = 0
    for _ in range(30):
        process = run_build(*pair, out)
        time.sleep(duration * rng.uniform(0.2, 1.1))
        process.kill()
        process.wait()
        interrupted += any(".boomerang-partial-" in path.name for path in tmp_path.iterdir())
        if out.exists():
            assert content(out) == expected
            shutil.rmtree(out)
    assert interrupted
    boomerang.build(*pair, out, patch=1)
    assert nothing_but(tmp_path, "expected", "out"), "leftovers are removed by the next run"
    assert content(out) == expected


def test_leftovers_are_removed_and_work_in_progress_is_not(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out[1]"
    with new_directory(out) as partial:
        (partial / "file").write_text("mine")
        dead = tmp_path / f"{partial.name}x"
        shutil.copytree(partial, dead)
        boomerang.build(*pair, out, patch=1)
        assert (partial / "file").exists() and not dead.exists()
        shutil.rmtree(out)
    assert nothing_but(out, "file")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_a_diverged_model_are_not_built_with(
    dtype: torch.dtype, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(pair[1], student)
    weights = load_file(student / "model.safetensors")
    nan = {name: torch.full_like(tensor, math.nan, dtype=dtype) for name, tensor in weights.items()}
    save_file(nan, student / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="has NaN or infinite values"):
        boomerang.build(pair[0], student, tmp_path / "out", patch=1)
    assert not (tmp_path / "out").exists()


def test_two_identical_builds_at_once(pair: tuple[Path, Path], tmp_path: Path) -> None:
    expected = content(boomerang.build(*pair, tmp_path / "expected", patch=1))
    for _ in range(3):
        both = [run_build(*pair, tmp_path / "out") for _ in range(2)]
        assert [process.wait() for process in both] == [0, 0]
        assert content(tmp_path / "out") == expected
    assert nothing_but(tmp_path, "expected", "out")


def test_the_slower_of_two_runs_does_not_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="not empty"), new_directory(out) as slower:
        (slower / "file").write_text("slower")
        with new_directory(out) as faster:
            (faster / "file").write_text("faster")
    assert (out / "file").read_text() == "faster"
    assert nothing_but(tmp_path, "out")


# What it costs


@pytest.mark.parametrize(
    ("dtype", "heavy", "limit"),
    [
        (None, {"torch", "transformers", "numpy", "huggingface_hub"}, 64),
        ("float32", {"torch"}, 400),
    ],
)
def test_memory_and_imports(dtype: str | None, heavy: set[str], limit: int, tmp_path: Path) -> None:
    """100 MB of weights pass by with a few of memory, and nothing heavy is imported."""
    teacher, student = big_pair(tmp_path)
    code = (
        "import sys, boomerang\n"
        f"boomerang.build(*sys.argv[1:4], patch=1, dtype={dtype!r})\n"
        f"assert not {heavy} & set(sys.modules)\n"
        # Unlike getrusage's, this peak does not begin with that of the process that forked us.
        "print(*[line for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    command = [sys.executable, "-c", code, str(teacher), str(student), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 90_000_000
    assert int(done.stdout.split()[1]) < limit * 1024


def test_a_header_takes_little_more_than_its_own_bytes_to_write() -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.w.weight" for i in range(20) for j in range(100)]
    items = [
        Item(name, Tensor(name, Path("a"), "BF16", (8, 64), 1024 * i, 1024), "BF16")
        for i, name in enumerate(names)
    ]
    tracemalloc.start()
    length = len(header(items))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * length


def big_pair(directory: Path) -> tuple[Path, Path]:
    """Checkpoints of a real shape whose data are holes in the files."""
    width, table, keys = 1024, 16_000, 512
    config = {
        "model_type": "llama",
        "vocab_size": table,
        "hidden_size": width,
        "intermediate_size": width,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    }
    layer = {
        **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (width,)),
        **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (width, width)),
        **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (keys, width)),
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), (width, width)),
    }
    for name, depth in (("teacher", 6), ("student", 4)):
        shapes = {"model.embed_tokens.weight": (table, width), "model.norm.weight": (width,)}
        for i in range(depth):
            shapes |= {f"model.layers.{i}.{x}.weight": shape for x, shape in layer.items()}
        header: dict[str, object] = {}
        end = 0
        for tensor, shape in shapes.items():
            start, end = end, end + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        raw = json.dumps(header).encode()
        (directory / name).mkdir()
        with (directory / name / "model.safetensors").open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(8 + len(raw) + end)
        (directory / name / "config.json").write_text(
            json.dumps(config | {"num_hidden_layers": depth})
        )
    write_student_config(directory / "student", boomerang.LayerMap([0, 1, 2, 5], 6))
    return directory / "teacher", directory / "student"


# The hub


class Hub:
    """What `push` asks of a hub client, remembered."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.repositories: list[str] = []
        self.uploads: list[tuple[str, set[str]]] = []

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> None:
        assert exist_ok
        self.repositories.append(repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
        if self.failure is not None:
            raise self.failure
        self.uploads.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))


def test_push_uploads_the_directory(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    out = boomerang.build(*pair, tmp_path / "out", patch=1, push_to_hub="me/member")
    assert hub.repositories == ["me/member"]
    assert hub.uploads == [("me/member", set(content(out)))]


def test_a_failed_upload_leaves_the_member(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(OSError("no way")))
    with pytest.raises(OutputError, match="no way"):
        boomerang.build(*pair, tmp_path / "out", patch=1, push_to_hub="me/member")
    assert (tmp_path / "out" / "model.safetensors").exists()


# Which member


@pytest.mark.parametrize(
    "choice", [{}, {"patch": 1, "num_layers": 5}, {"params": "1B", "memory": "1GB"}]
)
def test_exactly_one_choice(
    choice: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(LayerMapError, match="exactly one"):
        boomerang.build(*pair, tmp_path / "out", **choice)


def test_the_students_own_order_is_the_default(tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "llama")
    write_student_config(student, boomerang.LayerMap((0, 1, 3, 5), 7), order=[3, 1, 0, 2])
    out = boomerang.build(teacher, student, tmp_path / "out", patch=1)
    record = json.loads((out / "boomerang.json").read_text())
    assert record["patched_layers"] == [3]
    assert record["order"] == [3, 1, 0, 2]
