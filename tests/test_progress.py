"""Where no terminal shows a bar, work says in lines how far it is."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from boomerang import LayerMap, init_student, progress
from boomerang.cli import main
from boomerang.units import show_bytes


def test_a_line_every_interval_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.show_progress("Writing", 8 << 20, words=show_bytes) as advance:
        for _ in range(8):
            now[0] += 10
            advance(1 << 20)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.partition(" of ")[0] for line in lines] == [
        "Writing: 3.00 MiB",
        "Writing: 6.00 MiB",
    ]
    assert lines[0] == "Writing: 3.00 MiB of 8.00 MiB, 0:00:50 left"


def test_nothing_is_said_of_what_is_soon_done_or_not_to_be_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress.show_progress("Measuring", 2) as advance:
        advance(1)
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with progress.show_progress("Measuring", 2, shown=False) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_evaluation_and_building_say_how_far_they_are(
    stories: Path,
    stories_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    student, text = tmp_path / "student", tmp_path / "text.txt"
    init_student(stories, student, LayerMap((0, 2, 4), 5))
    text.write_text(stories_text.read_text(encoding="utf-8")[:4000])
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    for command in (["build", "--patch", "1"], ["evaluate", "--text", str(text), "--members", "0"]):
        name, *options = command
        with pytest.raises(SystemExit) as stopped:
            main([name, str(stories), str(student), str(tmp_path / name), *options])
        assert not stopped.value.code
        assert re.search(r"ing.*: \d.* of \d", capsys.readouterr().err), name
