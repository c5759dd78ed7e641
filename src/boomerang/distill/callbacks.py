"""What a run tells while it goes on: a log file and a progress display."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint.output import write_text

# Loss terms of the display, in this order; the log file has all of them.
_SHOWN = ("loss", "ce", "kl", "alignment", "eval_loss", "eval_ce")


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
        # Of a run that begins anew not even the evaluation before its first step.
        kept = [
            line
            for line in lines
            if state.global_step
            and line.endswith("\n")
            and json.loads(line)["step"] <= state.global_step
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


class ShowProgress(TrainerCallback):
    """Steps, loss terms, tokens per second and time left, on standard error.

    A bar on a terminal; elsewhere, where a bar would show nothing, a line for each log.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar."""
        if not state.is_local_process_zero or not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("distil"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[terms]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._progress.add_task("", total=state.max_steps, completed=state.global_step, terms="")
        self._progress.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance the bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=state.global_step)

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
        if not terms or not state.is_local_process_zero:
            return
        if self._progress is not None and "loss" in (logs or {}):
            self._progress.update(self._progress.task_ids[0], terms=terms)
        else:
            # An evaluation stays on the screen, above the bar.
            self.console.print(
                f"step {state.global_step}/{state.max_steps}  {terms}", highlight=False
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
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
