"""Broken and hostile input to `boomerang build`: one line, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from boomerang.cli import main
from disk import save_pair

# An escape that JSON and YAML both take, and that is no character.
HALF = r"\ud800"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A teacher and a student of this test's own, in `models`."""
    return save_pair(tmp_path / "models", "llama")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["boomerang", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    teacher: Path | str,
    student: Path | str,
    *choice: object,
) -> str:
    """What is said when a member cannot be built; the parents of the target are new as well."""
    out = tmp_path / "new" / "parents" / "out"
    assert call(monkeypatch, "build", teacher, student, out, *(choice or ("--patch", 1))) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("boomerang: ")
    assert len(captured.err) < 600
    assert {path.name for path in tmp_path.iterdir()} <= {"models", "outside", "order.json"}
    return captured.err


def in_header(teacher: Path) -> None:
    path = teacher / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(b'"model.norm', b'"' + HALF.encode() + b"norm", 1)
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])


def in_json(name: str, entry: str) -> Callable[[Path], None]:
    def write(teacher: Path) -> None:
        text = (teacher / name).read_text()
        (teacher / name).write_text(text.replace("{", "{" + entry + ",", 1))

    return write


def companion(make: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda teacher: make(teacher / "tokenizer.json")


def link_out(path: Path) -> None:
    outside = path.parents[2] / "outside"
    outside.write_text("secret")
    path.symlink_to(outside)


def template_link_out(teacher: Path) -> None:
    (teacher / "additional_chat_templates").mkdir()
    link_out(teacher / "tool.jinja")
    (teacher / "tool.jinja").rename(teacher / "additional_chat_templates" / "tool.jinja")


def licence(teacher: Path) -> None:
    (teacher / "README.md").write_text(f'---\nlicense: "{HALF}"\n---\n')


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "tensor name": (in_header, "Unicode"),
    "config value": (in_json("config.json", f'"note": "{HALF}"'), "surrogate"),
    "config key": (in_json("config.json", f'"{HALF}": 1'), "surrogate"),
    "nested config": (in_json("config.json", f'"a": [{{"b": "x{HALF}y"}}]'), "surrogate"),
    "licence": (licence, "README.md: names a licence that is no Unicode text"),
    "pipe": (companion(os.mkfifo), "tokenizer.json: cannot be read (not a plain file)"),
    "link out": (companion(link_out), "tokenizer.json: is a link out of the checkpoint"),
    "dead link": (companion(lambda p: p.symlink_to("nowhere")), "tokenizer.json: is missing"),
    "template link out": (template_link_out, "tool.jinja: is a link out of the checkpoint"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_teacher_that_cannot_be_carried_over(
    case: str,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil, word = CASES[case]
    spoil(pair[0])
    # Found before a byte is written, not after all of them.
    monkeypatch.setattr("boomerang.checkpoint.write.write_weights", None)
    assert word in refused(capsys, monkeypatch, tmp_path, *pair)


def test_a_student_config_that_is_no_text(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_json("student_config.json", f'"order": "{HALF}"')(pair[1])
    message = refused(capsys, monkeypatch, tmp_path, *pair)
    assert "student_config.json" in message and "surrogate" in message


@pytest.mark.parametrize("role", [0, 1])
@pytest.mark.parametrize("behind_a_link", [False, True])
def test_a_path_that_is_not_utf8(
    role: int,
    behind_a_link: bool,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = list(pair)
    odd = tmp_path / "models" / os.fsdecode(b"caf\xe9")
    try:
        shutil.move(paths[role], odd)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    paths[role] = odd
    if behind_a_link:
        paths[role] = tmp_path / "models" / "link"
        paths[role].symlink_to(odd)
    assert "not UTF-8" in refused(capsys, monkeypatch, tmp_path, *paths)


def test_a_target_that_is_not_utf8(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / os.fsdecode(b"caf\xe9")
    assert call(monkeypatch, "build", *pair, out, "--patch", 1) == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["", "@main", "a--b/c", "x" * 300])
def test_names_that_no_checkpoint_has(
    name: str,
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pair[0])
    refused(capsys, monkeypatch, tmp_path, name, pair[1])


@pytest.mark.parametrize(
    "choice", [("--patch", 1), ("--blocks", "0"), ("--layers", 5), ("--all",)], ids=lambda c: c[0]
)
def test_a_disk_that_fills_up_is_the_only_thing_said(
    choice: tuple[object, ...],
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("boomerang.checkpoint.output._sync", full)
    assert "No space left" in refused(capsys, monkeypatch, tmp_path, *pair, *choice)


def test_a_family_is_not_begun_that_does_not_fit_as_a_whole(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest = (pair[0] / "model.safetensors").stat().st_size
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 2 * largest, 2 * largest)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "GB left" in refused(capsys, monkeypatch, tmp_path, *pair, "--all")
    assert call(monkeypatch, "build", *pair, tmp_path / "out", "--patch", 1) == 0


def test_messages_shorten_what_strangers_wrote(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (pair[0] / "model.safetensors").rename(pair[0] / "a.safetensors")
    long = "\x1b[2J" + 5000 * "n"
    for weight_map in (
        {long: "a.safetensors"},
        {long: 3},
        {"a": long},
        {"a": f"{long}.safetensors"},
        {"a": f"../{long}.safetensors"},
    ):
        index = json.dumps({"weight_map": weight_map})
        (pair[0] / "model.safetensors.index.json").write_text(index)
        assert "\x1b" not in refused(capsys, monkeypatch, tmp_path, *pair)
