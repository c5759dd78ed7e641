"""How far the tokenising of a text has come, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

T = TypeVar("T")

# Seconds between two lines where there is no terminal to draw on.
_INTERVAL = 30.0


class Counts(Protocol):
    """What is told."""

    documents: int
    tokens: int


@contextmanager
def show_tokens(counts: Counts) -> Iterator[Callable[[Iterator[T]], Iterator[T]]]:
    """Show counts while something is gone through; nothing for what is done at once.

    Args:
        counts: Read again each time.

    Yields:
        A function that passes an iterator on.
    """
    console = Console(stderr=True)
    began = told = time.perf_counter()

    def words() -> str:
        speed = counts.tokens / max(time.perf_counter() - began, 1e-9)
        return f"{counts.documents:,} documents, {counts.tokens:,} tokens, {speed:,.0f} tokens/s"

    def pass_on(items: Iterator[T]) -> Iterator[T]:
        nonlocal told
        for item in items:
            if console.is_terminal:
                progress.update(task, words=words())
            elif time.perf_counter() - told > _INTERVAL:
                told = time.perf_counter()
                console.print(f"tokenising: {words()}", highlight=False)
            yield item

    columns = (SpinnerColumn(), TextColumn("tokenising: {task.fields[words]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as (
        progress
    ):
        task = progress.add_task("", total=None, words="")
        yield pass_on
