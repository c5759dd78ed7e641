"""What a run prints and logs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..checkpoint.output import write_text
from ..progress import show_progress

if TYPE_CHECKING:
    from .preflight import Preflight

# Loss terms that are shown, in this order; the log file has all of them.
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
        """Drop the lines of steps that a resumed run repeats."""

        def stays(line: str) -> bool:
            # A run that begins anew keeps no line, a resumed run no summary.
            if not state.global_step or not line.endswith("\n"):
                return False
            entry = json.loads(line)
            return entry["step"] <= state.global_step and "train_runtime" not in entry

        if state.is_world_process_zero and self.path.exists():
            lines = self.path.read_text().splitlines(keepends=True)
            write_text(self.path, "".join(filter(stays, lines)))

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
    """Prints what the run will take, then a line for each log, with a bar on a terminal.

    Everything goes to standard error.

    Attributes:
        preflight: Counts what a run of so many steps will take; None to print no table.
        begun: Whether training has begun.
    """

    def __init__(self) -> None:
        self.preflight: Callable[[int], Preflight] | None = None
        self.begun = False
        self._bar = ExitStack()
        self._advance: Callable[[int], None] = lambda steps: None
        self._first = 0
        self._warm: tuple[int, float] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Print the table and open the bar."""
        self.begun, self._warm, self._first = True, None, state.global_step
        if not state.is_world_process_zero:
            return
        if self.preflight is not None:
            table = self.preflight(state.max_steps).table()
            Console(stderr=True).print(table, highlight=False, markup=False)
        if state.global_step:
            _print(f"Going on after step {state.global_step} of {state.max_steps}")
        # Elsewhere the lines of the log are enough.
        bar = show_progress("Distilling", state.max_steps, shown=sys.stderr.isatty())
        self._advance = self._bar.enter_context(bar)
        self._advance(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance the bar."""
        if self._warm is None and state.global_step - self._first >= _WARM_UP_STEPS:
            self._warm = state.global_step, time.monotonic()
        self._advance(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Print the loss terms, the speed and the time left."""
        logs = logs or {}
        terms = describe(logs)
        if terms and state.is_world_process_zero:
            left = self._time_left(state) if "loss" in logs else ""
            _print(f"step {state.global_step}/{state.max_steps}  {terms}  {left}".rstrip())

    def _time_left(self, state: TrainerState) -> str:
        """At the speed since the warm-up; empty while that is unknown."""
        if self._warm is None or state.global_step == self._warm[0]:
            return ""
        step, since = self._warm
        seconds = (time.monotonic() - since) / (state.global_step - step)
        left = timedelta(seconds=round(seconds * (state.max_steps - state.global_step)))
        return f"{left} left"

    def close(self) -> None:
        """Close the bar, also after an error."""
        self._bar.close()


def describe(logs: dict[str, Any]) -> str:
    """The loss terms of a log entry and the speed, for people; empty when it has none."""
    members = [name for name in logs if name.startswith(_MEMBER)]
    parts = [f"{name} {logs[name]:.3f}" for name in _SHOWN if name in logs]
    parts += [f"patch {name.removeprefix(_MEMBER)} {logs[name]:.3f}" for name in members]
    if "tokens_per_second" in logs:
        parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def _print(line: str) -> None:
    # Through sys.stderr, where rich puts lines above its bar.
    print(line, file=sys.stderr, flush=True)
