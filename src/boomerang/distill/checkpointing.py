"""A Trainer whose checkpoints are plain students with all that is needed to go on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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

from ..checkpoint.student_config import write_student_config, write_student_files
from ..errors import OutputError
from .checkpoints import PARTIAL, damage, publish
from .sharding import is_sharded, load_whole_weights, whole_weights

if TYPE_CHECKING:
    from ..layers import Order
    from .module import DistillModule

# The optimizer's state in a checkpoint, for any number of processes.
_OPTIMIZER = "optimizer"


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints are plain students, and appear when they are on the disk.

    Trainer writes a checkpoint straight under its final name. Here it grows under a temporary one,
    all processes wait for each other, and the one that saves renames it.
    """

    module: DistillModule
    # The teacher's directory: the student gets its config and tokenizer files from there.
    source: Path | None = None
    # An order of patching to record with the student.
    order: Order | None = None
    _partial: Path | None = None

    @property
    def sharded(self) -> bool:
        """Whether the parameters are sharded over the processes."""
        return is_sharded(self.module)

    def student_weights(self) -> dict[str, Tensor] | None:
        """The whole weights of a sharded student, for `save_student`; None of one that is whole.

        All processes must call it.
        """
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
        """Make a checkpoint of the present state, as at the steps for which one is planned."""
        self._save_checkpoint(self.model_wrapped, None)
        return self._final()

    def load_finished(self, checkpoint: Path) -> bool:
        """Load the student from a checkpoint of the run's last step.

        Returns:
            False, with nothing loaded, for a checkpoint of an earlier step.
        """
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
        self._partial = final.parent / PARTIAL
        try:
            super()._save_checkpoint(model, trial)
            self._name_best(self._partial / final.name, final)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(self._partial / final.name, final)
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
        """Record the best state under its final name, not the temporary one."""
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
