"""What a distillation costs, from the teacher's shape and the recipe; plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..distill.preflight import Matrices, flops_per_token
from ..distill.recipe import Recipe

# As transformers.TrainingArguments has it.
_ROWS = 8


@dataclass(frozen=True)
class Shape:
    """What of a teacher decides how much its students cost.

    Args:
        layers: Parameters of each of its layers.
        outside: Those outside the layers that each token is multiplied with: the head.
        attention_width: The heads times the size of a head.
    """

    layers: tuple[int, ...]
    outside: int
    attention_width: int

    def matrices(self, layers: Iterable[int]) -> Matrices:
        """A model of some of the teacher's layers, as operations are counted."""
        chosen = list(layers)
        return Matrices(
            parameters=self.outside + sum(self.layers[i] for i in chosen),
            num_layers=len(chosen),
            attention_width=self.attention_width,
        )

    @property
    def whole(self) -> Matrices:
        """The teacher."""
        return self.matrices(range(len(self.layers)))


def tokens(recipe: Recipe) -> int | None:
    """Tokens that a recipe trains on in one process; None where the text decides (epochs)."""
    training = recipe.training
    steps = training.get("max_steps", -1)
    if steps < 1:
        return None
    rows = training.get("per_device_train_batch_size", _ROWS)
    accumulated = training.get("gradient_accumulation_steps", 1)
    return int(steps * rows * accumulated * recipe.data.sequence_length)


def flops(recipe: Recipe, kept: Iterable[int], shape: Shape) -> int | None:
    """Floating-point operations of a distillation, counted as in `distill.preflight`.

    Args:
        recipe: Its recipe.
        kept: The teacher layers of the student.
        shape: The teacher's.
    """
    count = tokens(recipe)
    if count is None:
        return None
    return count * flops_per_token(shape.matrices(kept), shape.whole, recipe.data.sequence_length)
