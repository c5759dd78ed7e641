"""The recipe of a distillation run: one YAML file, checked as a whole before anything heavy starts.

The recipe is saved as `recipe.yaml` into the output it leads to, so that a result says how it was
made and an interrupted run can be told from another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..errors import LayerMapError, RecipeError
from ..layers import LayerMap
from ..models.config import num_layers
from ..models.default_order import default_order_for
from ..settings import Section, as_recipe_error, overridden, read_yaml
from ..text.sources import Data
from .fields import check_training
from .presets import BY_ORDER, DEFAULT, Preset, by_order, read_preset, with_preset
from .sections import Evaluate, KeepEvery, Loss, ModelOptions, Part

Probability = Annotated[float, Field(ge=0, le=1)]

FILE_NAME = "recipe.yaml"
# How the rows of a step are split, which changes no result: a run may go on with other processes.
_SPLIT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
_CHECKPOINTING = {"save_strategy", "save_steps", "save_total_limit"}


class Recipe(Section):
    """Everything that decides the outcome of a distillation run.

    Args:
        preset: The values of all keys that the recipe leaves out: `boomerang`, `paper`,
            `reference` or `adapt`; see `presets/`.
        teacher: A checkpoint directory or a hub id, with `@revision`.
        student: An initialised student, as `boomerang init` writes it; or else `keep`.
        keep: The teacher layers to cut the student from, listed or by three numbers. Beside
            `student`, those that it keeps, where it has no `student_config.json`.
        out: The directory for the distilled student.
        data: The text.
        model: How the models are loaded.
        order: In which order layers will be patched: `last-to-first`, `first-to-last`, or all
            student layers as a list; None for the teacher's default.
        loss: The weights of the loss terms.
        switch: Probability that a step's batch enters the student at a random layer, with the
            teacher's state; None for the preset's value for the order.
        mirror: Probability that it leaves the student at a random layer, through the teacher; None
            as above.
        freeze: Parts of the student that keep the teacher's weights. Where embedding and head are
            tied, freezing either freezes the matrix they share.
        mode: `clean`, or `reference` for the exact loss of the paper's code: the KL term over
            padding too, and losses summed over gradient accumulation.
        seed: Decides the order of the data and the switch points.
        shard: Shard both models, gradients and optimizer state over the processes; needs several.
        evaluate: What is measured on held-out rows while it trains.
        training: Any field of `transformers.TrainingArguments`, verbatim, over those of the preset.
            Held-out rows are measured every tenth of the run. Checkpoints are made as often, to go
            on from, and removed at its end; those that the recipe asks for (`save_strategy`,
            `save_steps`, `save_total_limit`) stay.

    Raises:
        RecipeError: A key or value is not allowed.
    """

    preset: Preset = DEFAULT
    teacher: str
    student: str | None = None
    keep: list[int] | KeepEvery | None = None
    out: str
    data: Data
    model: ModelOptions = ModelOptions()
    order: Literal["last-to-first", "first-to-last"] | list[int] | None = None
    loss: Loss = Loss()
    switch: Probability | None = None
    mirror: Probability | None = None
    freeze: list[Part] = Field(default_factory=list)
    mode: Literal["clean", "reference"] = "clean"
    seed: int = 0
    shard: bool = False
    evaluate: Evaluate = Evaluate()
    training: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, /, **content: Any) -> None:
        try:
            super().__init__(**with_preset(content))
        except ValidationError as error:
            raise as_recipe_error(error, Recipe) from None

    @field_validator("training")
    @classmethod
    def _known_training_fields(
        cls, training: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        known = read_preset(info.data.get("preset", DEFAULT))["training"]
        own = {key: value for key, value in training.items() if known.get(key) != value}
        if own:
            check_training(own)
        return training

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.student is None and self.keep is None:
            raise ValueError("there is no student: give `student`, or `keep` to cut one")
        if (self.switch or 0) + (self.mirror or 0) > 1:
            raise ValueError("switch + mirror is more than 1: they are probabilities of one draw")
        evaluates = self.training.get("eval_strategy", "no") != "no"
        if (evaluates or self.training.get("eval_on_start")) and not self.data.held_out:
            raise ValueError("training asks for evaluation on no rows: set data.held_out")
        if self.evaluate.members and not self.data.held_out:
            raise ValueError("evaluate.members are measured on no rows: set data.held_out")
        if len(self.data.phases) > 1 and self.training.get("max_steps", -1) < 1:
            raise ValueError("phases are shares of a run of so many steps: set training.max_steps")
        if self.mode == "reference":
            if self.data.packing:
                raise ValueError(
                    "mode reference has one padded document a row: set data.packing to false"
                )
            if self.switch != 0 or self.mirror != 0:
                raise ValueError(
                    "mode reference knows no switch points: set switch and mirror to 0, or preset "
                    "to reference"
                )
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a YAML file.

        Args:
            path: The file.
            overrides: `key=value` pairs that replace what the file says: keys with dots for what is
                nested (`loss.kl=1`), values in YAML.

        Raises:
            RecipeError: The file cannot be read, or a key or value is not allowed; names the key.
        """
        path = Path(path)
        return cls.parse(read_yaml(path), overrides, where=path)

    @classmethod
    def parse(
        cls, content: dict[str, Any], overrides: Sequence[str] = (), where: object = None
    ) -> Recipe:
        """Check a recipe that is given as a dict.

        Args:
            content: The recipe's keys, left as they are.
            overrides: As in `load`.
            where: The place that errors name.

        Raises:
            RecipeError: A key or value is not allowed.
        """
        content = overridden(content, overrides)
        try:
            return cls(**{str(key): value for key, value in content.items()})
        except RecipeError as error:
            raise RecipeError(error.what, where=_place(where, error.where)) from None

    def save(self, path: Path) -> None:
        """Write the recipe as YAML, defaults included."""
        path.write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """The recipe as YAML text, defaults included."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)

    def resolved(self, teacher_config: dict[str, Any]) -> Recipe:
        """The recipe with what depends on the teacher filled in: `order`, `switch`, `mirror`.

        Args:
            teacher_config: The teacher's `config.json`.

        Raises:
            RecipeError: `switch` and `mirror` do not go together, or `keep`, `order` or
                `evaluate.members` speak of layers that are not there.
            ConfigError: The config does not say how many layers there are.
        """
        order = default_order_for(teacher_config) if self.order is None else self.order
        # Of an order that was searched for, no preset knows which side it patches first.
        name = order if isinstance(order, str) else "listed"
        content = self.model_dump() | {"order": order}
        for key in BY_ORDER:
            if content[key] is None:
                content[key] = by_order(self.preset, key, name)
        recipe = Recipe(**content)
        if self.keep is not None:
            recipe.members(recipe.layers(num_layers(teacher_config)))
        return recipe

    def differences(self, other: Recipe) -> list[str]:
        """The top-level keys in which two recipes differ; where and by how many it runs apart."""
        mine, others = self._compared(), other._compared()
        return [key for key in mine if mine[key] != others[key]]

    def _compared(self) -> dict[str, Any]:
        training = {key: value for key, value in self.training.items() if key not in _SPLIT}
        return self.model_dump(exclude={"out", "shard"}) | {"training": training}

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the recipe asks for checkpoints, so that they stay when the run is finished."""
        asked = not _CHECKPOINTING.isdisjoint(self.training)
        return asked and self.training.get("save_strategy") != "no"

    def layers(self, num_layers: int) -> LayerMap:
        """The kept layers of a teacher of `num_layers` layers; `keep` must be set.

        Raises:
            RecipeError: `keep` does not fit the teacher.
        """
        assert self.keep is not None
        with _about("keep"):
            if isinstance(self.keep, KeepEvery):
                every = self.keep
                return LayerMap.every(every.every, num_layers, first=every.first, last=every.last)
            return LayerMap(self.keep, num_layers)

    def members(self, layers: LayerMap) -> dict[int, tuple[int, ...]]:
        """The members to evaluate besides the student; the recipe must be `resolved`.

        Args:
            layers: The teacher layers the student is cut from.

        Returns:
            By the number of patched blocks, the patched student layers. Where the recipe names
            none: the first size above the student, the middle, the last below the teacher.

        Raises:
            RecipeError: `order` or `evaluate.members` do not fit the layers.
        """
        assert self.order is not None
        with _about("order"):
            layers.order(self.order)
        chosen = self.evaluate.members
        if chosen is None:
            largest = layers.max_patch - 1
            chosen = sorted({1, largest // 2 + 1, largest}) if largest >= 1 else []
        with _about("evaluate.members"):
            return {patch: layers.member(patch, self.order).patched for patch in chosen if patch}


@contextmanager
def _about(key: str) -> Iterator[None]:
    """What does not fit the layers, as a mistake in a key of the recipe."""
    try:
        yield
    except LayerMapError as error:
        raise RecipeError(error.what, where=key, fix=error.fix) from None


def _place(*parts: object) -> str | None:
    return ": ".join(str(part) for part in parts if part is not None) or None
