"""Checkpoints to go on from, each there whole or not at all."""

from __future__ import annotations

import json
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from ..checkpoint.output import new_directory
from ..checkpoint.student_config import write_student_config, write_student_files
from ..checkpoint.weights import read_weights
from .sharded_optimizer import load_optimizer, load_whole_optimizer, save_optimizer
from .sharding import is_sharded, load_whole_weights, whole_weights

if TYPE_CHECKING:
    from .module import DistillModule

# Where a checkpoint grows; nothing looks for checkpoints in here.
_PARTIAL = "partial"

# The state of an optimizer over divided parameters; otherwise it is Trainer's `optimizer.pt`.
_OPTIMIZER = "optimizer"


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint in a directory, if there is one."""
    found = {_step(path): path for path in _checkpoints(directory)}
    complete = {step: path for step, path in found.items() if step is not None}
    return complete[max(complete)] if complete else None


def remove_incomplete(directory: Path) -> None:
    """Remove what a killed run was still writing, and checkpoints that something else broke."""
    shutil.rmtree(directory / _PARTIAL, ignore_errors=True)
    hidden = directory.glob(f".{PREFIX_CHECKPOINT_DIR}-*")
    for path in [*hidden, *(path for path in _checkpoints(directory) if _step(path) is None)]:
        shutil.rmtree(path, ignore_errors=True)


def remove_all(directory: Path) -> None:
    """Remove all checkpoints, and the directory itself unless something else is in it."""
    remove_incomplete(directory)
    for path in _checkpoints(directory):
        shutil.rmtree(path)
    # Some trackers write in there, too.
    with suppress(OSError):
        directory.rmdir()


def _checkpoints(directory: Path) -> list[Path]:
    return list(directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))


def _step(checkpoint: Path) -> int | None:
    """The step a checkpoint was made at; None where something in it is missing or cut short."""
    try:
        read_weights(checkpoint)
        # What torch writes is a zip archive, whose table of contents comes last.
        states = [path for path in checkpoint.iterdir() if path.suffix in (".pt", ".pth")]
        if not all(map(zipfile.is_zipfile, states)) or not (checkpoint / SCHEDULER_NAME).exists():
            return None
        return int(json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints are plain students, and appear when they are on the disk.

    Trainer writes a checkpoint straight under its final name. Here it grows under a temporary one,
    all processes wait for each other, and the one that saves renames it.
    """

    module: DistillModule
    # The teacher's directory: the student gets its config and tokenizer files from there.
    source: Path | None = None
    _partial: Path | None = None

    @property
    def sharded(self) -> bool:
        """Whether the parameters are divided over the processes."""
        return is_sharded(self.module)

    def student_weights(self) -> dict[str, Tensor] | None:
        """What `save_student` writes where it is divided; all processes give their parts to it."""
        if not self.sharded:
            return None
        return whole_weights(self.module.student, keep=self.args.should_save)

    def save_student(self, directory: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the student as a plain checkpoint, with tokenizer and `student_config.json`.

        Args:
            directory: Where to.
            weights: As `student_weights` gathers them; None where the student is whole.
        """
        teacher, student, layers = self.module.teacher, self.module.student, self.module.layers
        student.save_pretrained(directory, state_dict=weights)
        if self.source is not None:
            write_student_files(
                directory, layers, source=self.source, teacher=teacher, student=student
            )
            return
        if self.processing_class is not None:
            self.processing_class.save_pretrained(directory)
        write_student_config(directory, layers)

    def save_state(self) -> Path:
        """Make a checkpoint of the present state, as at the steps for which one is planned."""
        self._save_checkpoint(self.model_wrapped, None)
        return self._final()

    # The whole of it, as all processes have to come to the gathering of a divided student: to
    # `_save` transformers 5.17 lets only the one that writes.
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
        try:
            super()._save_checkpoint(model, trial)
            self._name_best(self._partial / final.name, final)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                _publish(self._partial / final.name, final)
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

    def _name_best(self, partial: Path, final: Path) -> None:
        """A state that is the best so far was recorded under the name it will not keep."""
        if self.state.best_model_checkpoint == str(partial):
            self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(partial / TRAINER_STATE_NAME))

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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer, scheduler = self._prepared()
        save_optimizer(self.module, optimizer, Path(output_dir, _OPTIMIZER))
        if self.args.should_save:
            torch.save(scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        divided = Path(checkpoint, _OPTIMIZER)
        # In several processes on a CPU transformers 5.17 and accelerate 1.12 read the file to
        # "cpu:0", which torch does not know; later ones do not.
        if self.args.world_size == 1 and not divided.is_dir():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # The checkpoint may be one of divided models where this run's are whole, or the reverse.
        optimizer, scheduler = self._prepared()
        if divided.is_dir():
            load_optimizer(self.module, optimizer, divided)
        else:
            load_whole_optimizer(optimizer, Path(checkpoint, OPTIMIZER_NAME))
        scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER_NAME), weights_only=True))
        for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _prepared(self) -> tuple[Any, Any]:
        """The optimizer in what accelerate makes of it, and the scheduler."""
        prepared: Any = self.optimizer
        return prepared.optimizer, self.lr_scheduler

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)


def _publish(partial: Path, final: Path) -> None:
    """Give a written checkpoint its name, once it is on the disk."""
    # A run that goes on from a step and is stopped before the next one has that checkpoint already.
    if _step(final) is None:
        with new_directory(final, overwrite=True) as whole:
            for file in partial.iterdir():
                file.replace(whole / file.name)
    shutil.rmtree(partial.parent)
