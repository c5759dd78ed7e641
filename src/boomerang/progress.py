"""Progress on standard error: a bar on a terminal, and a line every 30 seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Seconds between two lines, and over how many the speed is averaged.
_INTERVAL = 30.0
_SPEED_PERIOD = 300.0


@contextmanager
def show_progress(
    what: str,
    total: int | None = None,
    *,
    words: Callable[[int], str] = "{:,}".format,
    shown: bool = True,
) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work has come; yields a function to call with each step's size.

    Args:
        what: The work, a word or two.
        total: The sum of all steps; None where it is not known.
        words: How to write a sum of steps.
        shown: Whether to show anything.
    """

    def amount(done: int) -> str:
        return words(done) if total is None else f"{words(done)} of {words(total)}"

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(amount(int(task.completed)))

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), Amount(), TimeElapsedColumn(), TimeRemainingColumn())
    said = time.monotonic()
    with Progress(
        *columns,
        console=console,
        transient=total is None,
        disable=not (shown and console.is_terminal),
        speed_estimate_period=_SPEED_PERIOD,
        get_time=time.monotonic,
    ) as display:
        display.add_task(what, total=total)
        (task,) = display.tasks

        def advance(steps: int) -> None:
            nonlocal said
            display.advance(task.id, steps)
            if shown and not console.is_terminal and time.monotonic() - said >= _INTERVAL:
                said = time.monotonic()
                left = task.time_remaining
                time_left = "" if left is None else f", {timedelta(seconds=left)} left"
                print(
                    f"{what}: {amount(int(task.completed))}{time_left}",
                    file=console.file,
                    flush=True,
                )

        yield advance
