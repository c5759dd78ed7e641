"""The output directory of a run: whose it is, where the run goes on, how the student gets there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ..checkpoint.output import new_directory, write_text
from ..errors import OutputError
from .recipe import FILE_NAME, Recipe

LOG = "log.jsonl"
_INPUTS = "inputs.json"
_CHECKPOINTS = "checkpoints"
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
    def finished(self) -> bool:
        """Whether the student is there."""
        return (self.path / _CONFIG).exists()

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, if there is one.

        Trainer writes `trainer_state.json` last, so a checkpoint without it, or with a broken one,
        was cut short.
        """
        found: dict[int, Path] = {}
        for path in self.checkpoints.glob("checkpoint-*"):
            try:
                step = json.loads((path / "trainer_state.json").read_text())["global_step"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found[int(step)] = path
        return found[max(found)] if found else None

    def check_recipe(self) -> None:
        """See that the directory is free, or this recipe's already.

        Raises:
            OutputError: It is not.
        """
        record = self.path / FILE_NAME
        if record.exists():
            changed = Recipe.load(record).differences(self.recipe)
            if changed and self._has_something_to_lose():
                raise OutputError(
                    f"holds the run of another recipe (it differs in {', '.join(changed)})",
                    where=self.path,
                    fix="give another `out`, or the recipe it was made by",
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
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
        try:
            recorded = json.loads((self.path / _INPUTS).read_text())
            changed = [role for role in inputs if recorded.get(role) != inputs[role]]
        except (OSError, ValueError, AttributeError):
            raise OutputError(
                "cannot be read as the record of a run's inputs", where=self.path / _INPUTS
            ) from None
        if changed:
            raise OutputError(
                f"holds the run of this recipe on another {', '.join(changed)}: what stands under "
                "the recorded name has changed",
                where=self.path,
                fix="give another `out`, or remove this one",
            )

    def claim(self, inputs: Mapping[str, str]) -> None:
        """Make the directory this run's.

        Raises:
            OutputError: It cannot be written.
        """
        record = json.dumps(inputs, indent=2) + "\n"
        try:
            if (self.path / FILE_NAME).exists():
                write_text(self.path / _INPUTS, record)
                write_text(self.path / FILE_NAME, self.recipe.to_yaml())
            else:
                with new_directory(self.path) as partial:
                    (partial / _INPUTS).write_text(record)
                    self.recipe.save(partial / FILE_NAME)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=self.path) from None

    def remove_if_empty(self) -> None:
        """Remove the directories that Trainer makes before anything is to be written."""
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
        with new_directory(complete, overwrite=True) as partial:
            save(partial)
        for file in sorted(complete.iterdir(), key=lambda path: path.name == _CONFIG):
            file.replace(self.path / file.name)
        complete.rmdir()

    def discard_checkpoints(self) -> None:
        """Remove the checkpoints, several times the student's size, unless they were asked for."""
        if self.recipe.keeps_checkpoints:
            return
        for path in self.checkpoints.glob("checkpoint-*"):
            shutil.rmtree(path)
        # Some trackers write in there, too.
        with suppress(OSError):
            self.checkpoints.rmdir()

    def _has_something_to_lose(self) -> bool:
        return self.finished or self.last_checkpoint() is not None
