"""The runs of a study through submitit: each in a process of its own, after the run it needs."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError

from ..errors import BoomerangError, StudyError
from .plan import Job
from .records import Directory

# `debug` does runs in this process.
Executor = Literal["local", "slurm", "debug"]

# A run that starts, and its number; a run that has ended, its seconds, and the error if it failed.
Started = Callable[[Job, int], None]
Ended = Callable[[Job, float, str | None], None]

_POLL_SECONDS = 0.1
# submitit ends a local run after two minutes if it is not told otherwise, and a slurm one after
# five; SBATCH_TIMELIMIT wins over the latter.
_MINUTES = {"local": 366 * 24 * 60, "slurm": 24 * 60, "debug": 1}


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        job: The run.
        error: Why, in a line.
        mistake: Whether the user can mend it; otherwise it is a defect, or the process was killed.
    """

    job: Job
    error: str
    mistake: bool


@dataclass(frozen=True)
class Run:
    """What is done in a run's process.

    Args:
        job: The run.
        directory: The study's directory.
        environment: Variables to set; None removes one.
        alive: A file that the study's process keeps locked; a local run ends with that process.
    """

    job: Job
    directory: Path
    environment: Mapping[str, str | None]
    alive: Path | None

    def __call__(self) -> Failure | None:
        """Do the run; an error comes back as a value."""
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self.alive is not None:
            # submitit ignores SIGTERM; a distillation takes it to save a checkpoint.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            threading.Thread(target=_end_with, args=(self.alive,), daemon=True).start()
        try:
            # Imported last: torch reads the environment.
            from transformers.utils import logging

            from .jobs import do

            logging.disable_progress_bar()
            do(self.job, Directory(self.directory))
        except BoomerangError as error:
            return Failure(self.job, str(error), True)
        except SystemExit:
            return Failure(self.job, "stopped; the same command continues it", True)
        except Exception as error:
            traceback.print_exc()
            return Failure(self.job, f"{type(error).__name__}: {error}", False)
        return None


def _end_with(alive: Path) -> None:
    """End this process when the study's has ended; the next study continues its run."""
    with suppress(FileNotFoundError), alive.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os._exit(1)


@contextmanager
def _alive(logs: Path) -> Iterator[Path | None]:
    """A file that is locked until this process ends, however it ends; None without locks."""
    logs.mkdir(parents=True, exist_ok=True)
    for leftover in logs.glob(".alive-*"):
        leftover.unlink()
    with NamedTemporaryFile(dir=logs.resolve(), prefix=".alive-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield None
        else:
            yield Path(file.name)


def check_executor(executor: Executor) -> None:
    """Refuse an executor that this machine does not have.

    Raises:
        StudyError: There is no slurm here.
    """
    if executor == "slurm" and submitit.SlurmExecutor.affinity() <= 0:
        raise StudyError(
            "this machine has no srun", where="slurm", fix="use local, or log in to the cluster"
        )


def run_jobs(
    jobs: Sequence[Job],
    directory: Directory,
    at_once: int,
    *,
    executor: Executor = "local",
    started: Started,
    ended: Ended,
) -> list[Failure]:
    """Do all runs; those that do not need a failed one are done nevertheless.

    SIGINT and SIGTERM stop the runs, and distillations save a checkpoint first; a second signal
    ends everything at once. So does an error of `started` or `ended`, which is raised.

    Args:
        jobs: The runs, each after the one that it needs if that is among them.
        directory: The study's.
        at_once: The number of runs at a time; with several GPUs, each takes one in turn.
        executor: Where runs are done.
        started: Called as each run starts.
        ended: Called as each run ends.

    Raises:
        SystemExit: A signal stopped the study; the code is 128 plus its number.
    """
    waiting, failures = list(jobs), list[Failure]()
    # By slot: the run, submitit's job, and when it started.
    running: dict[int, tuple[Job, submitit.Job[Any], float]] = {}
    slots = max(1, min(at_once, len(jobs)))
    devices = _devices() if executor == "local" and slots > 1 else []
    count = 0
    with _signals() as received, _alive(directory.logs) as alive:
        try:
            while (waiting or running) and not received:
                for slot in sorted(set(range(slots)) - set(running)):
                    job = next_job(waiting, [each for each, *_ in running.values()])
                    if job is None:
                        break
                    waiting.remove(job)
                    count += 1
                    started(job, count)
                    run = Run(job, directory.path, {}, None)
                    if executor == "local":
                        share = _share(slot, slots, devices)
                        run = Run(job, directory.path, share, alive)
                    handle = _submit(run, directory.logs / job.name, executor)
                    running[slot] = job, handle, time.monotonic()
                for slot, (job, handle, since) in list(running.items()):
                    if handle.done():
                        del running[slot]
                        failure = _outcome(job, handle, executor)
                        if failure is not None:
                            failures.append(failure)
                            waiting = [each for each in waiting if each.needs != job.name]
                        error = None if failure is None else failure.error
                        ended(job, time.monotonic() - since, error)
                time.sleep(0 if executor == "debug" else _POLL_SECONDS)
        finally:
            _stop([handle for _, handle, _ in running.values()], executor)
    if received:
        raise SystemExit(128 + received[0])
    return failures


def next_job(waiting: Sequence[Job], running: Sequence[Job]) -> Job | None:
    """The run to start next, or None where all that is left needs one that is not done.

    What can be measured is measured at once, so that results come early; of distillations the
    longest goes first, so that none is left over at the end.
    """
    unfinished = {job.name for job in (*waiting, *running)}
    ready = [job for job in waiting if job.needs not in unfinished]
    return min(ready, key=lambda job: (job.kind == "distil", -(job.flops or 0)), default=None)


def _submit(run: Run, folder: Path, executor: Executor) -> submitit.Job[Any]:
    through = submitit.AutoExecutor(folder, cluster=executor)
    through.update_parameters(
        name=run.job.name, timeout_min=_MINUTES[executor], stderr_to_stdout=True
    )
    # Ctrl-C reaches all processes of a terminal; submitit's would kill the run within a second.
    # Blocked here, the signal stays blocked in them, and this process passes SIGTERM on instead.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return through.submit(run)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outcome(job: Job, handle: submitit.Job[Any], executor: Executor) -> Failure | None:
    log = handle.paths.stdout
    killed = Failure(job, f"its process was killed, perhaps for its memory; see {log}", False)
    # Here a result is there as soon as the process has ended; on a cluster submitit waits for it.
    if executor == "local" and not handle.paths.result_pickle.exists():
        return killed
    try:
        failure: Failure | None = handle.result()
    except UncompletedJobError:
        return killed
    except FailedJobError:
        return Failure(job, f"its process could not start; see {log}", False)
    # Nothing but the log is left to read.
    for path in handle.paths.folder.glob("*.pkl"):
        path.unlink(missing_ok=True)
    return failure


def _stop(handles: Sequence[submitit.Job[Any]], executor: Executor) -> None:
    for handle in handles:
        if executor == "local":
            # submitit's own `cancel` gives a run one second.
            with suppress(ProcessLookupError):
                os.kill(int(handle.job_id), signal.SIGTERM)
        else:
            handle.cancel(check=False)
    while executor == "local" and not all(handle.done() for handle in handles):
        time.sleep(_POLL_SECONDS)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask to stop, as they come; each ends the process the second time."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)
        os.write(2, b"stopping; distillations save a checkpoint first; again to stop at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


def _share(slot: int, slots: int, devices: Sequence[str]) -> dict[str, str | None]:
    """The variables that give a run its share of the machine.

    Args:
        slot: Which of the runs at a time it is.
        slots: Their number.
        devices: GPUs, as `CUDA_VISIBLE_DEVICES` names them.
    """
    # submitit hides all GPUs from a run that asks for none.
    share = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
    if devices:
        share["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    elif slots > 1 and "OMP_NUM_THREADS" not in os.environ:
        share["OMP_NUM_THREADS"] = str(max(1, _cores() // slots))
    return share


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [each for each in named.split(",") if each.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
