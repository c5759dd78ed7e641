"""Outputs on disk: never over a source, old or new but never half, one writer, a full disk."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import boomerang
from boomerang import LayerMap, init_student
from boomerang.baselines import naive
from boomerang.baselines.bench import Bench
from boomerang.checkpoint import output
from boomerang.checkpoint.lock import LOCK, locked
from boomerang.checkpoint.output import (
    check_apart,
    check_free,
    is_occupied,
    new_directory,
    write_text,
)
from boomerang.cli import main
from boomerang.errors import OutputError

LAYERS = LayerMap((0, 2, 4), 5)


@pytest.fixture
def teacher(tmp_path: Path, stories: Path) -> Path:
    """A teacher of this test's own."""
    return Path(shutil.copytree(stories, tmp_path / "models" / "teacher"))


@pytest.fixture
def student(teacher: Path, tmp_path: Path) -> Path:
    """A student of this test's own."""
    return init_student(teacher, tmp_path / "student", LAYERS)


@pytest.fixture
def text(tmp_path: Path, stories_text: Path) -> Path:
    """A little text."""
    path = tmp_path / "text.txt"
    path.write_text(stories_text.read_text()[:6000])
    return path


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> str:
    """What the command line says, in the last line, about a mistake of the user's."""
    monkeypatch.setattr("sys.argv", ["boomerang", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


# Never over a source


def test_an_output_is_apart_from_its_sources(tmp_path: Path) -> None:
    source = tmp_path / "models" / "teacher"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for out, relation in (
        (source, "is the checkpoint"),
        (source / "new" / "out", "lies inside"),
        (tmp_path / "link" / "out", "lies inside"),
        (tmp_path / "models", "holds"),
        (tmp_path, "holds"),
    ):
        with pytest.raises(OutputError, match=relation):
            check_apart(out, "owner/name", source)
    check_apart(tmp_path / "models" / "out", "owner/name", source)
    check_apart(tmp_path / "models" / "teacher2", source)


@pytest.mark.parametrize("where", ["is", "holds", "inside"])
def test_whatever_writes_leaves_its_sources_alone(
    where: str,
    teacher: Path,
    student: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "models" / "precious").write_text("keep me")
    before = content(tmp_path)
    out = {"is": teacher, "holds": teacher.parent, "inside": teacher / "out"}[where]
    recipe = tmp_path / "recipe.yaml"
    study = tmp_path / "study.yaml"
    data = f"{{files: [{text}], sequence_length: 32}}"
    recipe.write_text(f"{{teacher: {teacher}, student: {student}, out: {out}, data: {data}}}")
    study.write_text(
        f"{{teacher: {teacher}, recipe: {{keep: [0, 2, 4], data: {data}}}, seeds: [0], "
        f"measure: {{texts: [{text}]}}}}"
    )
    measured = ("--text", text, "--device", "cpu")
    for arguments in (
        ("init", teacher, out, "--overwrite"),
        ("build", teacher, student, out, "--patch", 1, "--overwrite"),
        ("distill", recipe),
        ("evaluate", teacher, student, out, *measured),
        ("baseline", "naive", teacher, student, out, *measured),
        ("baseline", "shortgpt", teacher, student, out, "--calibration", text, *measured),
        ("demo", out, "--teacher", teacher),
        ("study", study, out),
    ):
        said = refused(capsys, monkeypatch, *arguments)
        assert "the checkpoint" in said or "was not made by boomerang" in said, (arguments, said)
    recipe.unlink()
    study.unlink()
    assert content(tmp_path) == before


def test_nothing_is_written_into_the_student(
    teacher: Path,
    student: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = content(student)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{teacher: {teacher}, student: {student}, out: {student}, "
        f"data: {{files: [{text}], sequence_length: 32}}}}"
    )
    measured = ("--text", text, "--device", "cpu")
    evaluation = (teacher, student, student, *measured)
    baseline = ("baseline", "shortgpt", teacher, student, tmp_path / "results", *measured)
    saved = (*baseline, "--calibration", text, "--save", student)
    assert "lies inside the checkpoint" in refused(capsys, monkeypatch, *saved)
    for arguments in (("evaluate", *evaluation), ("distill", recipe)):
        assert "is the checkpoint" in refused(capsys, monkeypatch, *arguments)
    assert "not empty" in refused(capsys, monkeypatch, "init", teacher, student)
    assert content(student) == before


def test_a_report_is_not_put_into_the_models(
    teacher: Path,
    student: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results, page = tmp_path / "results", tmp_path / "report.html"
    boomerang.evaluate(teacher, student, results, texts=[text], members=[0])
    for arguments in (
        (student / "report.html",),
        (teacher / "figures" / "report.html",),
        (page, "--figures", student),
    ):
        said = refused(capsys, monkeypatch, "report", results, *arguments)
        assert "the checkpoint" in said
    assert not page.exists() and not (student / "report.html").exists()
    seen = ("inspect", teacher, student, "--text", text, "--figure", teacher / "map.png")
    assert "lies inside the checkpoint" in refused(capsys, monkeypatch, *seen)
    bench = Bench.open(teacher, student)
    with pytest.raises(OutputError, match="is the checkpoint"):
        naive.run(bench, teacher, texts=[text])
    assert not (teacher / "results.jsonl").exists()


def test_a_live_teacher_is_not_overwritten(teacher: Path) -> None:
    from boomerang.checkpoint.loading import load_model

    before = content(teacher)
    (teacher / "student_config.json").write_text("{}")
    with pytest.raises(OutputError, match="is the checkpoint"):
        init_student(load_model(teacher), teacher, LAYERS, overwrite=True)
    (teacher / "student_config.json").unlink()
    assert content(teacher) == before


def test_only_what_was_made_here_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_free(out, overwrite=True)
    (out / "thesis.tex").write_text("keep me")
    # Where a user's own recipe lies, too.
    (out / "recipe.yaml").write_text("teacher: a\n")
    for overwrite, word in ((False, "is not empty"), (True, "was not made by boomerang")):
        with pytest.raises(OutputError, match=word):
            check_free(out, overwrite=overwrite)
        with pytest.raises(OutputError, match=word), new_directory(out, overwrite=overwrite):
            pass
    (out / "student_config.json").write_text("{}")
    check_free(out, overwrite=True)


# Old or new


def kill_at(step: int) -> None:
    """Kill this process before or after the n-th step that gives a directory another name."""
    left = step

    def mortal(do: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            for moment in ("before", "after"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                if moment == "before":
                    result = do(*arguments, **options)
            return result

        return wrapped

    Path.rename = mortal(Path.rename)  # type: ignore[method-assign]
    output._exchange = mortal(output._exchange)
    shutil.rmtree = mortal(shutil.rmtree)  # type: ignore[assignment]


def fill(out: Path, text: str) -> None:
    with new_directory(out, overwrite=True) as partial:
        (partial / "student_config.json").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_while_publishing_leaves_the_old_or_the_new(exchange: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = out / "student_config.json"
    found = []
    for step in range(1, 40):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        fill(out, "old")
        child = os.fork()
        if child == 0:
            if not exchange:
                output._exchange = lambda *_: False  # type: ignore[assignment]
            kill_at(step)
            fill(out, "new")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            break
        if exchange:
            assert file.exists(), "one of them has the name at every moment"
        finished = (tmp_path / ".out.boomerang-done" / file.name).exists()
        # The next run stops as soon as it has looked at what is there.
        with pytest.raises(ZeroDivisionError), new_directory(out, overwrite=True):
            raise ZeroDivisionError
        found.append(file.read_text())
        assert found[-1] == "new" or not finished
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    else:
        pytest.fail("never came to an end")
    # All kills before the replacement leave the old one, all after it the new one.
    assert set(found) == {"old", "new"} and found == sorted(found, reverse=True)


def test_an_error_while_publishing_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    fill(out, "old")
    monkeypatch.setattr(output, "_exchange", lambda *_: False)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith("-done"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="Permission denied"):
        fill(out, "new")
    assert content(out) == {"student_config.json": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_directory_that_takes_no_files_is_refused_at_once(
    teacher: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(capsys, monkeypatch, "init", teacher, "/proc/x", "--device", "cpu")
    assert said.startswith("boomerang: /proc/x: cannot be written (")


# One writer

_HOLD = """
import sys, time
from pathlib import Path
from boomerang.checkpoint.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_writer(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _HOLD, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_told_who_holds_the_output_and_a_kill_frees_it(
    tmp_path: Path,
) -> None:
    out = tmp_path / "new" / "out"
    with another_writer(out) as process:
        said = f"process {process.pid} on .* is writing here"
        with pytest.raises(OutputError, match=said), locked(out):
            pass
        with locked(out, when=False):
            pass
    assert (out / LOCK).exists() and not is_occupied(out)
    with locked(out), locked(out):
        (out / "file").write_text("")
    assert [path.name for path in out.iterdir()] == ["file"]


def test_an_output_that_is_being_written_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "old")
    with another_writer(out) as process:
        with pytest.raises(OutputError, match=f"process {process.pid} on .* is writing here"):
            fill(out, "new")
        assert (out / "student_config.json").read_text() == "old"
    late = tmp_path / "late"
    with ExitStack() as stack:
        with pytest.raises(OutputError, match="is writing"), new_directory(late) as partial:
            (partial / "file").write_text("")
            # A writer that comes while the new directory grows.
            stack.enter_context(another_writer(late))
        assert [path.name for path in late.iterdir()] == [LOCK]


def test_a_lock_leaves_no_empty_directory_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "new" / "out"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x")):
        with pytest.raises(OutputError, match="cannot be written"), locked(out):
            pass


def test_every_command_that_continues_an_output_takes_its_lock(
    teacher: Path,
    student: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    recipe, study = tmp_path / "recipe.yaml", tmp_path / "study.yaml"
    data = f"{{files: [{text}], sequence_length: 32}}"
    recipe.write_text(f"{{teacher: {teacher}, keep: [0, 2, 4], out: {out}, data: {data}}}")
    study.write_text(
        f"{{teacher: {teacher}, recipe: {{keep: [0, 2, 4], data: {data}}}, seeds: [0], "
        f"measure: {{texts: [{text}]}}}}"
    )
    measured = ("--text", text, "--device", "cpu")
    with another_writer(out) as process:
        for arguments in (
            ("distill", recipe),
            ("evaluate", teacher, student, out, *measured),
            ("baseline", "naive", teacher, student, out, *measured),
            ("baseline", "shortgpt", teacher, student, out, "--calibration", text, *measured),
            ("demo", out, "--teacher", teacher),
            ("study", study, out),
        ):
            said = refused(capsys, monkeypatch, *arguments)
            assert f"process {process.pid}" in said, (arguments, said)
        assert [path.name for path in out.iterdir()] == [LOCK]


# What a full disk and a kill leave


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", ["init", "build", "evaluate", "distill", "checkpoint"])
def test_a_disk_that_takes_no_more_is_one_line_and_what_was_there_stays(
    command: str,
    teacher: Path,
    student: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{teacher: {teacher}, keep: [0, 2, 4], out: {out}, "
        f"data: {{files: [{text}], sequence_length: 32}}, "
        "training: {max_steps: 2, per_device_train_batch_size: 2, save_steps: 1, use_cpu: true}}"
    )
    limit, *arguments = {
        "init": (100_000, "init", teacher, out, "--overwrite", "--device", "cpu"),
        "build": (100_000, "build", teacher, student, out, "--patch", 1, "--overwrite"),
        "evaluate": (800, "evaluate", teacher, student, out, "--text", text, "--device", "cpu"),
        "distill": (1000, "distill", recipe),
        "checkpoint": (1_000_000, "distill", recipe),
    }[command]
    if "--overwrite" in arguments:
        boomerang.build(teacher, student, out, patch=0)
    before = content(out) if out.exists() else {}
    with file_size_limit(int(str(limit))):
        said = refused(capsys, monkeypatch, *arguments)
    assert said.startswith(f"boomerang: {out}"), said
    assert "cannot be written (" in said
    after = content(out) if out.exists() else {}
    assert before.items() <= after.items()
    assert not [name for name in after if "boomerang-partial" in name]
    assert not list(tmp_path.glob(".*"))


def test_what_the_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def app(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "there")

    monkeypatch.setattr("boomerang.cli.app", app)
    assert refused(capsys, monkeypatch, "sizes") == "boomerang: there: Permission denied"


def test_temporary_files_of_killed_runs_go_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".family.json.boomerang-partial-{dead.pid}"
    other = tmp_path / f".page.html.boomerang-partial-{dead.pid}"
    alive = tmp_path / f".family.json.boomerang-partial-{os.getppid()}"
    for path in (left, other, alive):
        path.write_text("half")
    write_text(tmp_path / "family.json", "whole")
    assert not left.exists() and other.exists() and alive.exists()
    with locked(tmp_path):
        assert not other.exists() and alive.exists()
    with file_size_limit(3), pytest.raises(OutputError, match="File too large"):
        write_text(tmp_path / "family.json", "another")
    assert (tmp_path / "family.json").read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"family.json", alive.name}
