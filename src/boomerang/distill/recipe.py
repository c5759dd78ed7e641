"""The recipe of a distillation run: one YAML file, checked as a whole before anything heavy starts.

`distill` saves it as `recipe.yaml` in the output, so that a result says how it was made.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ..errors import LayerMapError, RecipeError
from ..layers import LayerMap
from ..models.config import num_layers, paper_order
from ..settings import Section, as_recipe_error, merged, overridden, read_yaml
from ..text.data_section import Data
from .training_fields import check_training

Preset = Literal["boomerang", "paper", "reference", "adapt"]
Part = Literal["embedding", "head"]
Distance = Literal["cosine", "relative_squared_error"]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PatchCount = Annotated[int, Field(ge=0)]

FILE_NAME = "recipe.yaml"
_PRESETS = Path(__file__).with_name("presets")
# A preset may give these a number for each order of patching.
_BY_ORDER = ("switch", "mirror")
# How the rows of a step are split changes no result: a run may go on with other processes.
_SPLIT = {"per_device_train_batch_size", "gradient_accumulation_steps"}
_CHECKPOINTING = {"save_strategy", "save_steps", "save_total_limit"}


class KeepEvery(Section):
    """Kept layers by three numbers; see `LayerMap.every`."""

    every: int
    first: int = 1
    last: int = 2


class ModelOptions(Section):
    """How teacher and student are loaded; the arguments are those of transformers."""

    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def for_model(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        return self.model_dump(exclude_none=True)


class Loss(Section):
    """The weights of the three terms; a term of weight 0 is not computed. Defaults: the paper's.

    The loss of a step is `ce`·CE + `kl`·τ²·KL(teacher‖student) + `alignment`/(M+1) · Σ over the M+1
    aligned pairs of their mean distance (arXiv 2510.05064, section 3.2).

    Args:
        ce: Weight of the cross-entropy with the text.
        kl: Weight of the divergence from the teacher's predictions.
        alignment: Weight of the mean distance over all aligned pairs of hidden states.
        temperature: τ of the KL term.
        distance: `cosine`: 1 - cos(a, b); `relative_squared_error`: ‖a-b‖²/‖b‖², b the teacher's.
    """

    ce: Weight = 1.0
    kl: Weight = 0.1
    alignment: Weight = 2.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    distance: Distance = "cosine"

    @model_validator(mode="after")
    def _one_term(self) -> Loss:
        if not (self.ce or self.kl or self.alignment):
            raise ValueError("ce, kl and alignment are all 0: there is nothing to learn from")
        return self


class Evaluate(Section):
    """What is measured on the held-out rows besides the student.

    Args:
        members: Members, as numbers of patched blocks along the recipe's order. By default the
            first size above the student, the middle, and the last below the teacher.
    """

    members: list[PatchCount] | None = None


class Recipe(Section):
    """Everything that decides the outcome of a distillation run.

    Args:
        preset: The values of all keys that the recipe leaves out; see `presets/`.
        teacher: A checkpoint directory or a hub id, with `@revision`.
        student: An initialised student, as `boomerang init` writes it; or else `keep`.
        keep: The teacher layers to cut the student from, listed or by three numbers. With
            `student`: the layers it keeps, where it has no `student_config.json`.
        out: The directory for the distilled student.
        data: The text.
        model: How the models are loaded.
        order: The order in which layers will be patched: `last-to-first`, `first-to-last`, or all
            student layers as a list. None for the teacher's default.
        loss: The weights of the loss terms.
        switch: Probability that a step's batch enters the student at a random layer, with the
            teacher's state. None for the preset's value for the order.
        mirror: Probability that it leaves the student at a random layer and goes on through the
            teacher. None as for `switch`.
        freeze: Parts of the student that keep the teacher's weights. Where embedding and head are
            tied, freezing either freezes the matrix they share.
        mode: `clean`, or `reference` for the loss of the paper's code: the KL term includes
            padding, and gradient accumulation sums losses.
        seed: Decides the order of the data and the switch points.
        shard: Shard both models, gradients and optimizer state over the processes.
        evaluate: What is measured on held-out rows while the student trains.
        training: Any field of `transformers.TrainingArguments`; overrides the preset's.

    Raises:
        RecipeError: A key or value is not allowed.
    """

    preset: Preset = "boomerang"
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
            super().__init__(**_with_preset(content))
        except ValidationError as error:
            raise as_recipe_error(error, Recipe) from None

    @field_validator("training")
    @classmethod
    def _known_training_fields(cls, training: dict[str, Any]) -> dict[str, Any]:
        known = _preset("paper")["training"]
        check_training({k: v for k, v in training.items() if known.get(k) != v})
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
        if self.mode == "reference" and self.data.packing:
            raise ValueError("mode reference pads each document: set data.packing to false")
        if self.mode == "reference" and (self.switch != 0 or self.mirror != 0):
            raise ValueError(
                "mode reference has no switch points: set switch and mirror to 0, or preset to "
                "reference"
            )
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe from a YAML file.

        Args:
            path: The file.
            overrides: `key=value` pairs that replace what the file says. Dots reach nested keys
                (`loss.kl=1`); values are YAML.

        Raises:
            RecipeError: The file cannot be read, or a key or value is not allowed.
        """
        path = Path(path)
        return cls.parse(read_yaml(path), overrides, where=path)

    @classmethod
    def parse(
        cls, content: dict[str, Any], overrides: Sequence[str] = (), where: object = None
    ) -> Recipe:
        """Check a recipe that is given as a dict; `overrides` as in `load`.

        Raises:
            RecipeError: A key or value is not allowed; the message begins with `where`.
        """
        content = overridden(content, overrides)
        try:
            return cls(**{str(key): value for key, value in content.items()})
        except RecipeError as error:
            place = ": ".join(str(part) for part in (where, error.where) if part is not None)
            raise RecipeError(error.what, where=place or None) from None

    def save(self, path: Path) -> None:
        """Write the recipe as YAML, defaults included."""
        path.write_text(self.to_yaml(), encoding="utf-8")

    def to_yaml(self) -> str:
        """The recipe as YAML text, defaults included."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)

    def resolved(self, teacher_config: dict[str, Any]) -> Recipe:
        """The recipe with `order`, `switch` and `mirror` filled in for a teacher's `config.json`.

        Raises:
            RecipeError: `switch` and `mirror` exceed 1 together, or `keep`, `order` or
                `evaluate.members` do not fit the teacher's layers.
            ConfigError: The config does not say how many layers there are.
        """
        order = paper_order(teacher_config) if self.order is None else self.order
        content = self.model_dump() | {"order": order}
        for key in _BY_ORDER:
            if content[key] is None:
                value = _preset(self.preset)[key]
                # A preset names no listed order.
                content[key] = value.get(str(order), 0.0) if isinstance(value, dict) else value
        recipe = Recipe(**content)
        if self.keep is not None:
            recipe.members(recipe.layers(num_layers(teacher_config)))
        return recipe

    def differences(self, other: Recipe) -> list[str]:
        """The top-level keys in which two recipes differ, apart from where they run."""
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
        with _as_mistake_in("keep"):
            if isinstance(self.keep, KeepEvery):
                every = self.keep
                return LayerMap.every(every.every, num_layers, first=every.first, last=every.last)
            return LayerMap(self.keep, num_layers)

    def members(self, layers: LayerMap) -> dict[int, tuple[int, ...]]:
        """The patched student layers of each member to evaluate, by their number.

        The recipe must be `resolved`; `layers` are those the student is cut from.

        Raises:
            RecipeError: `order` or `evaluate.members` do not fit the layers.
        """
        assert self.order is not None
        with _as_mistake_in("order"):
            layers.order(self.order)
        chosen = self.evaluate.members
        if chosen is None:
            largest = layers.max_patch - 1
            chosen = sorted({1, largest // 2 + 1, largest}) if largest >= 1 else []
        with _as_mistake_in("evaluate.members"):
            return {patch: layers.member(patch, self.order).patched for patch in chosen if patch}


@contextmanager
def _as_mistake_in(key: str) -> Iterator[None]:
    try:
        yield
    except LayerMapError as error:
        raise RecipeError(error.what, where=key, fix=error.fix) from None


@cache
def _preset(name: str) -> dict[str, Any]:
    content = read_yaml(_PRESETS / f"{name}.yaml")
    base = content.pop("preset", None)
    return content if base is None else merged(_preset(base), content)


def _with_preset(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys over those of its preset, key by key also inside `loss` and `training`."""
    name = content.get("preset", "boomerang")
    if name not in get_args(Preset):
        return content
    base = copy.deepcopy(_preset(name))
    for key in _BY_ORDER:
        if isinstance(base[key], dict):
            del base[key]
    own = {key: value for key, value in content.items() if value is not None or key not in base}
    training = own.get("training")
    # A run is as long as one of the two says.
    if isinstance(training, dict) and "num_train_epochs" in training:
        del base["training"]["max_steps"]
    return merged(base, own)
