"""The output directory of a run: whose it is, where the run goes on, how the student gets there."""

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
_CHECKPOINTS = "checkpoints"
_DATA = "data"
_PUBLISHING = "student"
# Written last: it marks a finished run.
_CONFIG = "config.json"


class Output:
    """An output directory.

    It belongs to a recipe and to the content of what the recipe names, as long as there is
    something in it to lose: a checkpoint or the student. Otherwise another run takes it over, such
    as that of a corrected recipe.

    Args:
        recipe: The recipe; its `out` is the directory.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.path = Path(recipe.out)
        self.recipe = recipe

    @property
    def checkpoints(self) -> Path:
        """Where Trainer puts its checkpoints."""
        return self.path / _CHECKPOINTS

    @property
    def data(self) -> Path:
        """Where the rows of the text are while it runs."""
        return self.path / _DATA

    @property
    def claimed(self) -> bool:
        """Whether it is some run's."""
        return (self.path / FILE_NAME).exists()

    @property
    def finished(self) -> bool:
        """Whether the student is there."""
        return (self.path / _CONFIG).exists()

    def check_recipe(self) -> None:
        """See that the directory is free, or this recipe's already.

        Raises:
            OutputError: It is not, or it is, holds or lies inside the teacher or the student.
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

    def check_inputs(self, inputs: Mapping[str, str]) -> None:
        """See that what the recipe names has not changed since the run began.

        Args:
            inputs: Hashes by role, as `Inputs.hashes` makes them.

        Raises:
            OutputError: It has.
        """
        if not self._has_something_to_lose():
            return
        recorded = self._recorded()
        changed = [role for role in inputs if recorded.get(role) != inputs[role]]
        if changed:
            raise OutputError(
                f"holds the run of this recipe on another {', '.join(changed)}: what stands under "
                "the recorded name has changed",
                where=self.path,
                fix="give another `out`, or remove this one",
            )

    def check_step(self, args: TrainingArguments) -> None:
        """See that a run that goes on has as many rows in a step as it had.

        Raises:
            OutputError: It has not.
        """
        if self.finished or last_checkpoint(self.checkpoints) is None:
            return
        recorded, now = self._recorded().get(_STEP), _rows_per_step(args)
        if recorded != now:
            raise OutputError(
                f"holds a run with {recorded} rows in a step, and now there are {now} "
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
        """Let the student's files appear, `config.json` last.

        Args:
            save: Writes them into a directory.
        """
        # Under a name of its own first: what a killed run leaves of it, the next one replaces.
        complete = self.path / _PUBLISHING
        shutil.rmtree(complete, ignore_errors=True)
        with new_directory(complete) as partial:
            save(partial)
        for file in sorted(complete.iterdir(), key=lambda path: path.name == _CONFIG):
            # A folder takes no other one's place.
            if file.is_dir():
                shutil.rmtree(self.path / file.name, ignore_errors=True)
            file.replace(self.path / file.name)
        complete.rmdir()

    def discard_checkpoints(self) -> None:
        """Remove checkpoints, unless they were asked for, and the rows to go on with."""
        if self.recipe.keeps_checkpoints:
            return
        remove_all(self.checkpoints)
        shutil.rmtree(self.data, ignore_errors=True)

    def _has_something_to_lose(self) -> bool:
        return self.finished or last_checkpoint(self.checkpoints) is not None

    def _recorded(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / _INPUTS).read_text()))
        except (OSError, ValueError, TypeError):
            raise OutputError(
                "cannot be read as the record of a run's inputs", where=self.path / _INPUTS
            ) from None


def _rows_per_step(args: TrainingArguments) -> int:
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size
