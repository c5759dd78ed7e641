"""The output directory of a run: whose it is, and how the student gets there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.output import check_apart, is_occupied, new_directory, write_text
from ..errors import OutputError
from .checkpoints import last_checkpoint, remove_all
from .recipe import FILE_NAME, Recipe

if TYPE_CHECKING:
    from transformers import TrainingArguments

LOG = "log.jsonl"
_INPUTS = "inputs.json"
_STEP = "rows_per_step"
_PUBLISHING = "student"
# Written last: it marks a finished run.
_CONFIG = "config.json"


class Output:
    """A recipe's output directory.

    While it holds a checkpoint or the student, it belongs to its recipe and to the content of what
    that recipe names. Otherwise another run takes it over, such as that of a corrected recipe.

    Attributes:
        path: The directory.
        checkpoints: Where Trainer puts its checkpoints.
        data: Where the rows of the text are while the run goes on.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.path = Path(recipe.out)
        self.recipe = recipe
        self.checkpoints = self.path / "checkpoints"
        self.data = self.path / "data"

    @property
    def claimed(self) -> bool:
        """Whether it belongs to a run."""
        return (self.path / FILE_NAME).exists()

    @property
    def finished(self) -> bool:
        """Whether the student is there."""
        return (self.path / _CONFIG).exists()

    def check_recipe(self) -> None:
        """Refuse a directory that another recipe or something else occupies.

        Raises:
            OutputError: It does, or the directory is, holds or lies inside a model that is read.
        """
        check_apart(self.path, self.recipe.teacher, *filter(None, [self.recipe.student]))
        record = self.path / FILE_NAME
        if record.exists():
            changed = Recipe.load(record).differences(self.recipe)
            if changed and self._has_something_to_lose():
                raise OutputError(
                    f"holds the run of another recipe (it differs in {', '.join(changed)})",
                    where=self.path,
                    fix="give another `out`, or the recipe it was made by",
                )
        elif is_occupied(self.path):
            raise OutputError(
                "is not empty and holds no run to go on with",
                where=self.path,
                fix="give another `out`",
            )

    def check_inputs(self, inputs: Mapping[str, str], args: TrainingArguments) -> None:
        """Refuse to go on when the models, the text or the rows in a step have changed.

        Args:
            inputs: Hashes by role, as `Inputs.hashes` makes them.
            args: For the rows in a step.

        Raises:
            OutputError: They have.
        """
        if not self._has_something_to_lose():
            return
        try:
            recorded: dict[str, Any] = dict(json.loads((self.path / _INPUTS).read_text()))
        except (OSError, ValueError, TypeError):
            raise OutputError(
                "cannot be read as the record of a run's inputs", where=self.path / _INPUTS
            ) from None
        changed = [role for role in inputs if recorded.get(role) != inputs[role]]
        if changed:
            raise OutputError(
                f"holds the run of this recipe on another {', '.join(changed)}: what stands under "
                "the recorded name has changed",
                where=self.path,
                fix="give another `out`, or remove this one",
            )
        before, now = recorded.get(_STEP), _rows_per_step(args)
        if before != now and not self.finished:
            raise OutputError(
                f"holds a run with {before} rows in a step, and now there are {now} "
                f"({args.train_batch_size} x {args.gradient_accumulation_steps} micro-batches x "
                f"{args.world_size} processes)",
                where=self.path,
                fix="set training.gradient_accumulation_steps to make up for the number of "
                "processes",
            )

    def claim(self, inputs: Mapping[str, str], args: TrainingArguments) -> None:
        """Make the directory this run's.

        Raises:
            OutputError: It cannot be written.
        """
        record = json.dumps({**inputs, _STEP: _rows_per_step(args)}, indent=2) + "\n"
        # The recipe first: a directory with anything else alone would belong to nobody.
        write_text(self.path / FILE_NAME, self.recipe.to_yaml())
        write_text(self.path / _INPUTS, record)

    def release(self) -> None:
        """Take back what `claim` wrote and what was prepared since."""
        shutil.rmtree(self.data, ignore_errors=True)
        for name in (FILE_NAME, _INPUTS):
            (self.path / name).unlink(missing_ok=True)
        for path in (self.checkpoints, self.path):
            with suppress(OSError):
                path.rmdir()

    def publish(self, save: Callable[[Path], None]) -> None:
        """Let the student's files appear, `config.json` last; `save` writes into a directory."""
        # In a directory of their own first: the next run replaces what a killed one leaves there.
        complete = self.path / _PUBLISHING
        shutil.rmtree(complete, ignore_errors=True)
        with new_directory(complete) as partial:
            save(partial)
        for file in sorted(complete.iterdir(), key=lambda path: path.name == _CONFIG):
            # A directory cannot replace another one.
            if file.is_dir():
                shutil.rmtree(self.path / file.name, ignore_errors=True)
            file.replace(self.path / file.name)
        complete.rmdir()

    def discard_checkpoints(self) -> None:
        """Remove checkpoints and rows, unless the recipe asks for checkpoints."""
        if self.recipe.keeps_checkpoints:
            return
        remove_all(self.checkpoints)
        shutil.rmtree(self.data, ignore_errors=True)

    def _has_something_to_lose(self) -> bool:
        return self.finished or last_checkpoint(self.checkpoints) is not None


def _rows_per_step(args: TrainingArguments) -> int:
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size
