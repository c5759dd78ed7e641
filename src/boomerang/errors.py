"""One family of errors: what is wrong, where it is, and what to do about it.

Every error a user can cause is a `BoomerangError`. The command line prints it as one line and exits
with code 2; anything else that escapes is a defect in this library.
"""

from __future__ import annotations


class BoomerangError(ValueError):
    """A mistake in the input, told in one line.

    Args:
        what: What is wrong, a clause without a full stop.
        where: The file, key or layer it concerns; printed first when given.
        fix: What the user can do; printed last when given.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        message = what if self.where is None else f"{self.where}: {what}"
        super().__init__(message if fix is None else f"{message}; {fix}")


class BoomerangWarning(UserWarning):
    """Something in the input that is dealt with, and that the user should know."""


class LayerMapError(BoomerangError):
    """A kept list, a set of blocks or an order that is no valid plan over the teacher's layers."""


class ConfigError(BoomerangError):
    """A `config.json` whose keys cannot be carried over to another number of layers."""


class ArchitectureError(BoomerangError):
    """A model whose embedding, layers and head cannot be told apart, or two that do not match."""


class CheckpointError(BoomerangError):
    """A checkpoint directory or file that is missing, broken, or not what it claims to be."""


class OutputError(BoomerangError):
    """An output that cannot be written where it was asked for."""


class RecipeError(BoomerangError):
    """A distillation recipe with unknown keys or values out of range."""


class StudyError(BoomerangError):
    """A study with unknown keys or values that cannot be, or one of whose runs failed."""


class TrainingError(BoomerangError):
    """A training step whose loss or gradient is not finite."""


class ResultsError(BoomerangError):
    """A results file that cannot be read as rows of measurements."""


class DataError(BoomerangError):
    """Text or a prompt that cannot be used for training or measuring."""
