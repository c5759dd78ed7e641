"""A run's log file and its progress display."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint.output import write_text

if TYPE_CHECKING:
    from .preflight import Preflight

# Loss terms of the display, in this order; the log file has all of them.
_SHOWN = ("loss", "ce", "kl", "alignment", "eval_loss", "eval_ce", "eval_perplexity")
_MEMBER = "eval_perplexity_patch_"

# The first steps of a run are slower than the rest: the time left is not estimated from them.
_WARM_UP_STEPS = 3


class JsonLines(TrainerCallback):
    """Appends everything Trainer logs to a file, a JSON object a line with its `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Drop the lines of steps that a resumed run does again."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        # A run that begins anew keeps no line, not even the evaluation before its first step.
        kept = [
            line
            for line in lines
            if state.global_step and line.endswith("\n") and _stays(json.loads(line), state)
        ]
        write_text(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write one line."""
        if state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def _stays(entry: dict[str, Any], state: TrainerState) -> bool:
    """Whether a line is of a step that is done, and not the summary of a run that was stopped."""
    return entry["step"] <= state.global_step and "train_runtime" not in entry


class ShowPreflight(TrainerCallback):
    """Prints what the run will take, on standard error, before the first step.

    Args:
        make: Makes it from the number of steps.
        console: Where to.
    """

    def __init__(self, make: Callable[[int], Preflight], console: Console | None = None) -> None:
        self.make = make
        self.console = console or Console(stderr=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Print it."""
        if not state.is_world_process_zero:
            return
        self.console.print(self.make(state.max_steps).table(), highlight=False, markup=False)
        if state.global_step:
            self.console.print(
                f"Going on after step {state.global_step} of {state.max_steps}", highlight=False
            )


class ShowProgress(TrainerCallback):
    """Steps, loss terms, tokens per second and time left, on standard error.

    A bar on a terminal; elsewhere, where a bar would show nothing, a line for each log.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._warm: tuple[int, float] | None = None
        self._first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar."""
        self._warm, self._first = None, state.global_step
        if not state.is_world_process_zero or not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("distil"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[terms]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
        )
        self._progress.add_task(
            "", total=state.max_steps, completed=state.global_step, terms="", left=""
        )
        self._progress.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance the bar."""
        if self._warm is None and state.global_step - self._first >= _WARM_UP_STEPS:
            self._warm = state.global_step, time.monotonic()
        if self._progress is not None:
            self._progress.update(
                self._progress.task_ids[0], completed=state.global_step, left=self._left(state)
            )

    def _left(self, state: TrainerState) -> str:
        """The time that is left at the speed since the warm-up; empty while that is unknown."""
        if self._warm is None or state.global_step == self._warm[0]:
            return ""
        step, since = self._warm
        seconds = (time.monotonic() - since) / (state.global_step - step)
        left = timedelta(seconds=round(seconds * (state.max_steps - state.global_step)))
        return f"{left} left"

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest loss terms."""
        terms = describe(logs or {})
        if not terms or not state.is_world_process_zero:
            return
        if self._progress is not None and "loss" in (logs or {}):
            self._progress.update(self._progress.task_ids[0], terms=terms)
        else:
            # An evaluation stays on the screen, above the bar.
            left = self._left(state) if "loss" in (logs or {}) else ""
            self.console.print(
                f"step {state.global_step}/{state.max_steps}  {terms}  {left}".rstrip(),
                highlight=False,
                soft_wrap=True,
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def describe(logs: dict[str, Any]) -> str:
    """The loss terms of a log entry and the speed, for people; empty when it has none."""
    parts = [f"{name} {logs[name]:.3f}" for name in _SHOWN if name in logs]
    parts += [
        f"patch {name.removeprefix(_MEMBER)} {value:.3f}"
        for name, value in logs.items()
        if name.startswith(_MEMBER)
    ]
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
