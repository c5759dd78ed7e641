"""Checkpoints of a run: a Trainer that writes them, which are complete, which to go on from.

A checkpoint is a plain student with the optimizer's state beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import Trainer, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..checkpoint.output import new_directory, write_json
from ..checkpoint.student_config import write_student_config, write_student_files
from ..errors import OutputError
from .sharding import is_sharded, load_whole_weights, whole_weights

if TYPE_CHECKING:
    from ..layers import Order
    from .module import DistillModule

# Where a checkpoint grows; nothing looks for checkpoints in here.
_PARTIAL = "partial"
# In each checkpoint: the size and SHA-256 of its other files.
_HASHES = "hashes.json"
# The optimizer's state in a checkpoint, for any number of processes.
_OPTIMIZER = "optimizer"


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint in a directory whose files are all there in full length."""
    whole = (path for path in reversed(_checkpoints(directory)) if not damage(path, content=False))
    return next(whole, None)


def checkpoint_to_resume(directory: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are as they were written; None where there is none.

    Removes damaged checkpoints that are newer, calling `say` with a line for each, and what a
    killed run left half-written.

    Raises:
        OutputError: There are checkpoints, and each is damaged; they are left as they are.
    """
    _remove_partial(directory)
    damaged: dict[Path, str] = {}
    for path in reversed(_checkpoints(directory)):
        problem = damage(path)
        if problem is None:
            for other, words in damaged.items():
                say(f"{other.name} is damaged ({words}); going on from {path.name}")
                shutil.rmtree(other)
            return path
        damaged[path] = problem
    if damaged:
        path, problem = next(iter(damaged.items()))
        raise OutputError(
            f"has no checkpoint to go on from: {path.name} is damaged ({problem}), and so are the "
            "older ones",
            where=directory,
            fix="restore it from a copy, or remove the directory to begin anew",
        )
    return None


def remove_all(directory: Path) -> None:
    """Remove all checkpoints, and the directory itself unless something else is in it."""
    _remove_partial(directory)
    for path in _checkpoints(directory):
        shutil.rmtree(path)
    # Some trackers write in there, too.
    with suppress(OSError):
        directory.rmdir()


def damage(checkpoint: Path, *, content: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None when nothing is.

    Compares hashes, which reads all files whole; without `content` sizes alone.
    """
    try:
        recorded: dict[str, Any] = json.loads((checkpoint / _HASHES).read_text())
        if not recorded:
            raise ValueError
        for name, file in recorded.items():
            if (checkpoint / name).stat().st_size != file["bytes"]:
                return f"{name} has another length"
        if content:
            for name, found in _describe(checkpoint).items():
                if name in recorded and found != recorded[name]:
                    return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return str(error.strerror)
    except (ValueError, TypeError, LookupError, AttributeError):
        return f"{_HASHES} cannot be read"
    return None


def _publish(partial: Path, final: Path) -> None:
    """Give a written checkpoint its hashes and its name, once it is on the disk."""
    # A run that goes on from a step and is stopped before the next one has that checkpoint already.
    if not final.exists() or damage(final, content=False):
        shutil.rmtree(final, ignore_errors=True)
        with new_directory(final) as whole:
            for file in partial.iterdir():
                file.replace(whole / file.name)
            write_json(whole / _HASHES, _describe(whole))
    shutil.rmtree(partial.parent)


def _describe(directory: Path) -> dict[str, dict[str, Any]]:
    """The size and SHA-256 of each file by its path in a directory."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    files = [path for path in files if path != directory / _HASHES]
    with ThreadPoolExecutor(4) as pool:
        hashes = pool.map(_sha256, files)
        return {
            str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": found}
            for path, found in zip(files, hashes, strict=True)
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_partial(directory: Path) -> None:
    for path in (directory / _PARTIAL, *directory.glob(f".{PREFIX_CHECKPOINT_DIR}-*")):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(directory: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    found = {
        path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"): path
        for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    return [found[step] for step in sorted(filter(str.isdecimal, found), key=int)]


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints are plain students, and appear when they are on the disk.

    Trainer writes a checkpoint straight under its final name. Here it grows under a temporary name,
    all processes wait for each other, and the first one renames it.

    Attributes:
        source: The teacher's directory, for the student's config and tokenizer files.
        order: An order of patching to record with the student.
    """

    module: DistillModule
    source: Path | None = None
    order: Order | None = None
    _partial: Path | None = None

    @property
    def sharded(self) -> bool:
        """Whether the parameters are sharded over the processes."""
        return is_sharded(self.module)

    def student_weights(self) -> dict[str, Tensor] | None:
        """The whole weights of a sharded student; None where the student is whole.

        All processes must call it.
        """
        if not self.sharded:
            return None
        return whole_weights(self.module.student, keep=self.args.should_save)

    def save_student(self, directory: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the student as a plain checkpoint, with tokenizer and `student_config.json`.

        `weights` are those that `student_weights` gathered.
        """
        teacher, student, layers = self.module.teacher, self.module.student, self.module.layers
        student.save_pretrained(directory, state_dict=weights)
        if self.source is None:
            write_student_config(directory, layers, self.order)
        else:
            write_student_files(
                directory,
                layers,
                source=self.source,
                teacher=teacher,
                student=student,
                order=self.order,
            )

    def save_state(self) -> Path:
        """Make a checkpoint now; returns its path."""
        self._save_checkpoint(self.model_wrapped, None)
        return self._final()

    def load_finished(self, checkpoint: Path) -> bool:
        """Load the student from a checkpoint of the run's last step; False for an earlier step."""
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step < state.max_steps:
            return False
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            checkpoint = checkpoint.parent / Path(state.best_model_checkpoint).name
        self._load_whole(checkpoint)
        return True

    # All processes must gather a sharded student, but Trainer calls `_save` in one only.
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the student; all processes call this."""
        weights = self.student_weights()
        if self.args.should_save:
            self.save_student(Path(output_dir or str(self.args.output_dir)), weights)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._partial is None else str(self._partial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        final = self._final()
        self._partial = final.parent / _PARTIAL
        partial = self._partial / final.name
        try:
            super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(partial):
                self.state.best_model_checkpoint = str(final)
                if self.args.should_save:
                    self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                _publish(partial, final)
        finally:
            self._partial = None
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(final.parent),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _final(self) -> Path:
        run = Path(super()._get_output_dir(None))
        return run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        student = self.module.student
        # By its own class, so that one that came with its checkpoint need not be trusted again.
        saved = type(student).from_pretrained(
            resume_from_checkpoint, dtype=student.dtype, use_safetensors=True, local_files_only=True
        )
        if self.sharded:
            load_whole_weights(student, saved.state_dict())
        else:
            student.load_state_dict(saved.state_dict())

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_whole(Path(self.state.best_model_checkpoint))

    def _load_whole(self, checkpoint: Path) -> None:
        problem = damage(checkpoint)
        if problem is not None:
            raise OutputError(f"is damaged ({problem})", where=checkpoint)
        self._load_from_checkpoint(str(checkpoint))

    # One format for whole and sharded models: a run may go on in more or fewer processes, sharded
    # or not.

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer, scheduler = self._prepared()
        with _one_process_is_fine():
            state = get_optimizer_state_dict(self.module, optimizer)
            save(state, checkpoint_id=Path(output_dir, _OPTIMIZER))
        if self.args.should_save:
            torch.save(scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer, scheduler = self._prepared()
        directory = Path(checkpoint, _OPTIMIZER)
        state = get_optimizer_state_dict(self.module, optimizer)
        # There is none in it yet for parameters that no step has trained.
        paths = FileSystemReader(directory).read_metadata().planner_data.values()
        trained = {path[1] for path in paths if path[0] == "state"}
        state["state"] = {name: state["state"][name] for name in trained}
        with _one_process_is_fine():
            load(state, checkpoint_id=directory)
        set_optimizer_state_dict(
            self.module, optimizer, state, options=StateDictOptions(strict=False)
        )
        scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))

    def _prepared(self) -> tuple[Any, Any]:
        """The optimizer without accelerate's wrapper, and the scheduler."""
        wrapped: Any = self.optimizer
        return wrapped.optimizer, self.lr_scheduler


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
