"""SIGINT and SIGTERM as a request: finish the step, save a checkpoint, stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Under a launcher (torchrun, accelerate) a process gets one request several times: from the
# terminal or the scheduler, and from the launcher, which got it too.
_LAUNCHED = "LOCAL_RANK"
_SAME_REQUEST_SECONDS = 2.0

_SHOW_CURSOR = "\x1b[?25h"


class StopOnSignal(TrainerCallback):
    """Stops training at the end of a step in which SIGINT or SIGTERM came, with a checkpoint.

    All processes stop at the same step; a second signal ends the process at once. transformers'
    `enable_jit_checkpoint` handles SIGTERM alone, in the middle of a step, in each process apart.

    Attributes:
        signal: The signal that training stopped for; None when it did not.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._received = 0
        self._since = 0.0
        self._window = _SAME_REQUEST_SECONDS if _LAUNCHED in os.environ else 0.0
        self._speaks = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Take the signals over, which only the main thread can."""
        self._speaks = state.is_world_process_zero
        if train_dataloader is not None:
            _shield_workers(train_dataloader)
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop with a checkpoint if any process got a signal; the last step ends the run anyway."""
        received = self._received
        if args.world_size > 1:
            agreed = torch.tensor(received, device=args.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            received = int(agreed)
        if received and state.global_step < state.max_steps:
            self.signal = signal.Signals(received)
            control.should_training_stop = True
            control.should_save = control.should_log = True
            # There may be little time, and the next run does not need it.
            control.should_evaluate = False

    def restore(self) -> None:
        """Give the signals back, also after an error."""
        for number, handler in self._previous.items():
            # A handler that was not set from Python is not known to it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._received:
            self._received, self._since = number, time.monotonic()
            if self._speaks:
                self._say(f"{signal.Signals(number).name}: stopping after this step")
        elif time.monotonic() - self._since > self._window:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _say(self, text: str) -> None:
        # Straight to the descriptor: a signal may come while a stream is being written to. The
        # cursor, which the display hides, must not stay away if the process is killed next.
        cursor = _SHOW_CURSOR if os.isatty(2) else ""
        os.write(2, f"{cursor}\n{text} and saving a checkpoint; again to stop at once\n".encode())


def _shield_workers(loader: Any) -> None:
    """Let the processes that load data finish their work when a signal reaches the whole group."""
    base = getattr(loader, "base_dataloader", loader)
    base.worker_init_fn = partial(_start_worker, base.worker_init_fn)


def _start_worker(start: Callable[[int], object] | None, worker: int) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if start is not None:
        start(worker)
