"""Pairs by hub id: revisions, offline, gated, not found; through the hub's own client or a stub."""

from __future__ import annotations

import errno
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors
from typer.testing import CliRunner

import boomerang
from boomerang.checkpoint.resolve import resolve
from boomerang.cli import app
from boomerang.errors import ArchitectureError, CheckpointError
from boomerang.verify import verify
from published import PAIRS, PROMPT, PUBLISHED, Published, write_pair

MAIN, PINNED = "a" * 40, "b" * 40
NAMES = {
    "qwen3": ("Qwen/Qwen3-4B-Base", "Harvard-DCML/boomerang-qwen3-2.3B"),
    "gpt2": ("openai-community/gpt2", "distilbert/distilgpt2"),
}

pytestmark = pytest.mark.filterwarnings("ignore::boomerang.errors.BoomerangWarning")


class Hub:
    """A stub of the client: copies models into a cache of the hub's own shape."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.models, self.asked = cache, {}, []

    def add(self, name: str, source: Path) -> None:
        self.models[name] = source

    def snapshot_download(
        self,
        name: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str],
    ) -> str:
        self.asked.append((name, revision))
        commit = MAIN if revision is None else revision
        snapshot = self.cache / f"models--{name.replace('/', '--')}" / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.models[name].iterdir():
            if any(fnmatch(path.name, pattern) for pattern in ignore_patterns):
                continue
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, snapshot)
        return str(snapshot)


@pytest.fixture(scope="module", params=NAMES)
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, tuple[Path, Path]]:
    return request.param, write_pair(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A look-alike of each kind."""
    return {name: write_pair(tmp_path_factory.mktemp(name), name) for name in PAIRS}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    return hub


def call(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result


def test_two_names_are_enough(
    files: tuple[str, tuple[Path, Path]], hub: Hub, tmp_path: Path
) -> None:
    """Of the authors' students, and of GPT-2's, which says nothing about its layers."""
    kind, paths = files
    names = NAMES[kind]
    for name, path in zip(names, paths, strict=True):
        hub.add(name, path)
    rows = json.loads(call("sizes", *names, "--json").stdout)
    assert rows[-1]["num_layers"] == PAIRS[kind].num_layers
    assert not list(hub.cache.rglob("*.safetensors")), "sizes needs no weights"
    assert PROMPT in call("generate", *names, PROMPT, "--max-new-tokens", 1).stdout
    out = tmp_path / "out"
    call("build", *names, out, "--patch", 1)
    record = json.loads((out / "boomerang.json").read_text())
    assert record["kept_layers"] == list(PAIRS[kind].kept)
    assert record["teacher"] | {"fingerprint": ""} == {
        "id": names[0], "revision": MAIN, "fingerprint": "",
    }  # fmt: skip
    hub.asked.clear()
    assert verify(out).passed
    assert sorted(hub.asked) == sorted((name, MAIN) for name in names)


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda each: each.name)
def test_every_published_student_by_name(
    published: Published, looks: dict[str, tuple[Path, Path]], hub: Hub, tmp_path: Path
) -> None:
    pair, names = PAIRS[published.like], (published.teacher or "its/teacher", published.name)
    for name, path in zip(names, looks[published.like], strict=True):
        hub.add(name, path)
    built = call("build", *names, tmp_path / "out", "--patch", 1)
    assert f"order {pair.order}, the paper's for {pair.architecture}" in built.stderr
    record = json.loads((tmp_path / "out" / "boomerang.json").read_text())
    assert record["kept_layers"] == list(pair.kept) and record["patch"] == 1
    assert (record["teacher"]["id"], record["student"]["id"]) == names


@pytest.mark.parametrize(
    ("like", "changes", "message"),
    [
        ("gpt_neox", {}, "model_type is 'gpt_neox' and the teacher's is 'qwen3'"),
        ("qwen3", {"vocab_size": 98}, "vocab_size is 98 and the teacher's is 97"),
        ("qwen3", {"hidden_size": 64}, "hidden_size is 64 and the teacher's is 32"),
    ],
)
def test_sizes_of_what_is_no_pair_are_not_made_up(
    like: str,
    changes: dict[str, object],
    message: str,
    looks: dict[str, tuple[Path, Path]],
    hub: Hub,
    tmp_path: Path,
) -> None:
    """Without weights, the configs tell."""
    student = tmp_path / "student"
    shutil.copytree(looks[like][1], student)
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | changes))
    hub.add("a/teacher", looks["qwen3"][0])
    hub.add("a/student", student)
    with pytest.raises(ArchitectureError, match=message):
        call("sizes", "a/teacher", "a/student")


def test_the_hub_is_not_asked_again_once_all_is_measured(
    looks: dict[str, tuple[Path, Path]],
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is said at the end was found at the beginning."""
    for name, path in zip(NAMES["gpt2"], looks["gpt2"], strict=True):
        hub.add(name, path)
    out, text = tmp_path / "out", tmp_path / "text.txt"
    text.write_text("the sea was the sea. " * 20)

    def gone_by_then(name: str, **options: Any) -> str:
        if (out / "results.jsonl").exists():
            raise errors.LocalEntryNotFoundError("offline")
        return hub.snapshot_download(name, **options)

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone_by_then)
    done = call("evaluate", *NAMES["gpt2"], out, "--text", text, "--members", "0")
    assert "order last-to-first, the paper's for gpt2" in done.stderr


def test_a_pin_is_kept(files: tuple[str, tuple[Path, Path]], hub: Hub, tmp_path: Path) -> None:
    kind, paths = files
    names = NAMES[kind]
    for name, path in zip(names, paths, strict=True):
        hub.add(name, path)
    out = boomerang.build(names[0], f"{names[1]}@{PINNED}", tmp_path / "out", patch=1)
    record = json.loads((out / "boomerang.json").read_text())
    assert (record["teacher"]["revision"], record["student"]["revision"]) == (MAIN, PINNED)
    assert hub.asked == [(names[0], None), (names[1], PINNED)]


def test_offline_the_cache_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own client, which finds branches, commits and nothing else."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--me--model"
    snapshot = repository / "snapshots" / MAIN
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(MAIN)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    for reference in ("me/model", f"me/model@{MAIN}", "me/model@main"):
        assert resolve(reference, weights=False) == snapshot
    for reference in ("me/other", f"me/model@{PINNED}", "me/model@v2"):
        with pytest.raises(CheckpointError, match="not whole in the hub's cache") as caught:
            resolve(reference)
        assert str(caught.value).startswith(f"{reference}: ")


def test_pickled_weights_alone_are_named_by_the_hub_id(
    looks: dict[str, tuple[Path, Path]], hub: Hub, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    shutil.copytree(looks["gpt2"][1], student)
    (student / "model.safetensors").rename(student / "pytorch_model.bin")
    hub.add("a/teacher", looks["gpt2"][0])
    hub.add("a/student", student)
    with pytest.raises(CheckpointError, match=r"^a/student@main: has no safetensors weights; pick"):
        boomerang.build("a/teacher", "a/student@main", tmp_path / "out", patch=1, keep=[0, 2])
    assert not (tmp_path / "out").exists()


def refusal(kind: type[Exception]) -> Exception:
    """An error as the client raises it."""
    if not issubclass(kind, errors.HfHubHTTPError):
        return kind("first line\nsecond line")
    response = SimpleNamespace(headers={}, request=None, status_code=500)
    return kind("first line\nsecond line", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(errors.GatedRepoError), r"is gated; accept its terms .* `hf auth login`$"),
        (refusal(errors.RevisionNotFoundError), "has no such revision on the hub$"),
        (refusal(errors.RepositoryNotFoundError), "nor a public model on the hub; check the name"),
        (refusal(errors.HFValidationError), "nor a public model on the hub; check the name"),
        (refusal(errors.LocalEntryNotFoundError), "the hub cannot be reached"),
        (refusal(errors.OfflineModeIsEnabled), "the hub cannot be reached"),
        (refusal(errors.HfHubHTTPError), r"cannot be downloaded \(HfHubHTTPError: first line\)"),
        (refusal(RuntimeError), r"cannot be downloaded \(RuntimeError: first line\); try again"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_refusal_is_one_line(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    for run in (
        lambda: boomerang.build("me/teacher@v1", "me/student", tmp_path / "out", patch=1),
        lambda: boomerang.Family.from_pretrained("me/teacher@v1", "me/student"),
        lambda: call("sizes", "me/teacher@v1", "me/student"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            run()
        assert str(caught.value).startswith(("me/teacher@v1: ", "me/student: "))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_that_a_member_takes_along_is_downloaded_and_weights_once(
    looks: dict[str, tuple[Path, Path]], hub: Hub, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(looks["llama"][0], source)
    wanted = {"NOTICE", "LICENSE", "qwen.tiktoken", "vocab.bpe", "merges.txt", "tekken.json"}
    unwanted = {"consolidated.safetensors", "pytorch_model.bin", "image_processor.py", "a.pth"}
    for name in wanted | unwanted:
        (source / name).write_text("")
    hub.add("owner/name", source)
    found = {path.name for path in resolve("owner/name").iterdir()}
    assert found == {path.name for path in source.iterdir()} - unwanted
    trusted = resolve("owner/name", trust_remote_code=True)
    assert "image_processor.py" in {path.name for path in trusted.iterdir()}
