"""Where no terminal shows a bar, work says in lines how far it is."""

from __future__ import annotations

import time

import pytest

from boomerang import progress
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
