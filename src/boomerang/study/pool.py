"""Runs shared out among worker processes, each run after the one it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from .plan import Job
from .records import Directory

# Of a run that starts, the how manieth it is; of one that has ended, seconds and error.
Started = Callable[[Job, int], None]
Ended = Callable[[Job, float, str | None], None]


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        job: The run.
        error: Why, in a line.
        mistake: Whether the user can mend it; else it is a defect, or the process was killed.
    """

    job: Job
    error: str
    mistake: bool


def run_jobs(
    jobs: Sequence[Job],
    directory: Directory,
    workers: int,
    *,
    started: Started,
    ended: Ended,
) -> list[Failure]:
    """Do all runs; those that do not need a failed one are done nevertheless.

    Args:
        jobs: The runs, each after the one that it needs if that is among them.
        directory: The study's.
        workers: How many processes; with several GPUs, each takes one in turn.
        started: Told of each run as it starts; from the threads of the workers, one at a time.
        ended: Told of each run as it ends.
    """
    board = Board(list(jobs))
    count = max(1, min(workers, len(jobs)))
    devices = _devices() if count > 1 else []
    processes = [_start(directory, i, count, devices) for i in range(count)]

    def serve(index: int) -> None:
        while (job := board.take()) is not None:
            # A run that was killed, such as for its memory, takes its process along.
            if processes[index].poll() is not None:
                processes[index] = _start(directory, index, count, devices)
            with board.changed:
                started(job, board.begun)
            begun = time.monotonic()
            failure = _ask(processes[index], job)
            with board.changed:
                if not board.stopped:
                    board.finish(job, failure)
                    ended(job, time.monotonic() - begun, failure.error if failure else None)

    threads = [threading.Thread(target=serve, args=(i,), daemon=True) for i in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        board.stop()
        # The end of its input ends a worker, at work or not.
        for process in processes:
            with suppress(OSError):
                _input(process).close()
            process.wait()
    return board.failures


@dataclass
class Board:
    """Which runs are to do, at work and done; for several threads.

    Args:
        waiting: Runs to do.
        begun: How many have started.
        stopped: Whether no more are to start.
        failures: Those that failed.
        changed: Held while any of it changes.
    """

    waiting: list[Job]
    begun: int = 0
    stopped: bool = False
    failures: list[Failure] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._awaited = {job.name for job in self.waiting}

    def take(self) -> Job | None:
        """The next run; waits where all that is left needs a run at work. None at the end."""
        with self.changed:
            while self.waiting:
                ready = [job for job in self.waiting if job.needs not in self._awaited]
                if ready:
                    job = min(ready, key=_urgency)
                    self.waiting.remove(job)
                    self.begun += 1
                    return job
                self.changed.wait()
            return None

    def finish(self, job: Job, failure: Failure | None) -> None:
        """Note how a run ended, with `changed` held; one that needs a failed one is not done."""
        self._awaited.discard(job.name)
        if failure is not None:
            self.failures.append(failure)
            for other in [each for each in self.waiting if each.needs == job.name]:
                self.waiting.remove(other)
                self._awaited.discard(other.name)
        self.changed.notify_all()

    def stop(self) -> None:
        """Start no more runs."""
        with self.changed:
            self.stopped = True
            self.waiting.clear()
            self.changed.notify_all()


def _urgency(job: Job) -> tuple[bool, int]:
    # What can be measured is measured at once, so that results come early; of distillations the
    # longest goes first, so that none is left over at the end.
    return (job.kind == "distil", -(job.flops or 0))


def _ask(process: subprocess.Popen[str], job: Job) -> Failure | None:
    try:
        print(job.to_json(), file=_input(process), flush=True)
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        return Failure(job, f"its process ended with code {process.wait()}", False)
    if answer["error"] is None:
        return None
    return Failure(job, answer["error"], answer["mistake"])


def _start(
    directory: Directory,
    index: int,
    count: int,
    devices: Sequence[str],
) -> subprocess.Popen[str]:
    environment = worker_environment(os.environ, index, count, devices)
    directory.logs.mkdir(exist_ok=True)
    with (directory.logs / f"worker-{index}.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "boomerang.study.worker", str(directory.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment,
            text=True, encoding="utf-8",
        )  # fmt: skip
    return process


def worker_environment(
    environment: Mapping[str, str], index: int, count: int, devices: Sequence[str]
) -> dict[str, str]:
    """What a worker runs with: its share of the machine.

    Args:
        environment: The parent's.
        index: Which worker.
        count: Of how many.
        devices: GPUs, as `CUDA_VISIBLE_DEVICES` names them.
    """
    own = dict(environment)
    if devices:
        own["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
    elif count > 1 and "OMP_NUM_THREADS" not in own:
        own["OMP_NUM_THREADS"] = str(max(1, _cores() // count))
    return own


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each for each in named.split(",") if each.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _input(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdin is not None
    return process.stdin
