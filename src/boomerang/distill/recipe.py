"""The recipe of a distillation run: one YAML file, checked as a whole before anything heavy starts.

The recipe is saved as `recipe.yaml` into the output it leads to, so that a result says how it was
made and an interrupted run can be told from another one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..errors import RecipeError
from ..layers import LayerMap
from .fields import check_training, complaint, hint
from .reading import override, read_yaml

Part = Literal["embedding", "head"]
Distance = Literal["cosine", "relative_squared_error"]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

FILE_NAME = "recipe.yaml"
_CHECKPOINTING = {"save_strategy", "save_steps", "save_total_limit"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeepEvery(_Model):
    """Kept layers by three numbers; see `LayerMap.every`."""

    every: int
    first: int = 1
    last: int = 2


class Data(_Model):
    """The text to train on.

    Args:
        files: Text files, UTF-8: a document each, or several with `<|endoftext|>` between them.
        sequence_length: Tokens in a row, at most as many as the teacher has positions for.
        packing: Documents one after the other, cut into full rows; otherwise one document a row,
            cut off or padded. Not every architecture keeps packed documents apart; one that does
            not is refused.
        held_out: Rows at the end of the text that are not trained on but kept for evaluation.
    """

    files: Annotated[list[str], Field(min_length=1)]
    sequence_length: Annotated[int, Field(ge=2)]
    packing: bool = True
    held_out: Annotated[int, Field(ge=0)] = 0


class ModelOptions(_Model):
    """How teacher and student are loaded, as in transformers.

    Args:
        attn_implementation: `sdpa`, `eager`, `flash_attention_2` ...; by default its own choice.
        trust_remote_code: Run Python code that comes with the checkpoints.
    """

    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def for_tokenizer(self) -> dict[str, Any]:
        """Keyword arguments of the tokenizer's `from_pretrained`; none where nothing is set."""
        return {"trust_remote_code": True} if self.trust_remote_code else {}

    def for_model(self) -> dict[str, Any]:
        """The same for a model."""
        if self.attn_implementation is None:
            return self.for_tokenizer()
        return {"attn_implementation": self.attn_implementation, **self.for_tokenizer()}


class Loss(_Model):
    """The weights of the three terms; one of weight 0 is not computed.

    The loss of a step is `ce`·CE + `kl`·τ²·KL(teacher‖student) + `alignment`/(M+1) · Σ over the M+1
    aligned pairs of their mean distance (arXiv 2510.05064, section 3.2). The defaults are the
    paper's.

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


class Recipe(_Model):
    """Everything that decides the outcome of a distillation run.

    Args:
        teacher: A checkpoint directory or a hub id, with `@revision`.
        student: An initialised student, as `boomerang init` writes it; or else `keep`.
        keep: The teacher layers to cut the student from, listed or by three numbers.
        out: The directory for the distilled student.
        data: The text.
        model: How the models are loaded.
        loss: The weights of the loss terms.
        switch: Probability that a step's batch enters the student at a random layer, with the
            teacher's state.
        mirror: Probability that it leaves the student at a random layer, through the teacher.
        freeze: Parts of the student that keep the teacher's weights. Where embedding and head are
            tied, freezing either freezes the matrix they share.
        mode: `clean`, or `reference` for the exact loss of the paper's code: the KL term over
            padding too, and losses summed over gradient accumulation.
        seed: Decides the order of the data and the switch points.
        training: Any field of `transformers.TrainingArguments`, verbatim. Where a field is left
            out, the paper's value holds: AdamW 0.9/0.95, weight decay 0.1, learning rate 3e-4
            cosine, warmup 1 %, clip 1.0 (arXiv 2510.05064, section 4). Checkpoints are made every
            tenth of the run, to go on from, and removed at its end; those that the recipe asks for
            (`save_strategy`, `save_steps`, `save_total_limit`) stay.

    Raises:
        RecipeError: A key or value is not allowed.
    """

    teacher: str
    student: str | None = None
    keep: list[int] | KeepEvery | None = None
    out: str
    data: Data
    model: ModelOptions = ModelOptions()
    loss: Loss = Loss()
    switch: Probability = 0.0
    mirror: Probability = 0.0
    freeze: list[Part] = []
    mode: Literal["clean", "reference"] = "clean"
    seed: int = 0
    training: dict[str, Any] = {}

    def __init__(self, /, **content: Any) -> None:
        try:
            super().__init__(**content)
        except ValidationError as error:
            raise _as_recipe_error(error) from None

    @field_validator("training")
    @classmethod
    def _known_training_fields(cls, training: dict[str, Any]) -> dict[str, Any]:
        if training:
            check_training(training)
        return training

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.student is None) == (self.keep is None):
            raise ValueError("the student is given by either `student` or `keep`: give just one")
        if self.switch + self.mirror > 1:
            raise ValueError("switch + mirror is more than 1: they are probabilities of one draw")
        evaluates = self.training.get("eval_strategy", "no") != "no"
        if (evaluates or self.training.get("eval_on_start")) and not self.data.held_out:
            raise ValueError("training asks for evaluation on no rows: set data.held_out")
        if self.mode == "reference":
            if self.data.packing:
                raise ValueError(
                    "mode reference has one padded document a row: set data.packing to false"
                )
            if self.switch or self.mirror:
                raise ValueError(
                    "mode reference knows no switch points: set switch and mirror to 0"
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
        content = copy.deepcopy(content)
        for setting in overrides:
            override(content, setting)
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

    def differences(self, other: Recipe) -> list[str]:
        """The top-level keys, `out` apart, in which two recipes differ."""
        mine, others = self.model_dump(), other.model_dump()
        return [key for key in mine if key != "out" and mine[key] != others[key]]

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether the recipe asks for checkpoints, so that they stay when the run is finished."""
        return not _CHECKPOINTING.isdisjoint(self.training)

    def layers(self, num_layers: int) -> LayerMap:
        """The kept layers of a teacher of `num_layers` layers; `keep` must be set.

        Raises:
            LayerMapError: `keep` does not fit the teacher.
        """
        assert self.keep is not None
        if isinstance(self.keep, KeepEvery):
            every = self.keep
            return LayerMap.every(every.every, num_layers, first=every.first, last=every.last)
        return LayerMap(self.keep, num_layers)


def _as_recipe_error(error: ValidationError) -> RecipeError:
    """One of pydantic's complaints as one line that names the key and what is allowed."""
    # Of the alternatives of a union the one that was meant got furthest; its name is no user's key.
    first = max(error.errors(), key=lambda complaint: len(complaint["loc"]))
    path = [str(part) for part in first["loc"] if part not in ("list[int]", "KeepEvery")]
    key = ".".join(path) or None
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        words = hint(path[-1], allowed) or f"; allowed are {', '.join(allowed)}"
        return RecipeError(f"unknown key{words}", where=key)
    if first["type"] == "missing":
        return RecipeError("is missing", where=key)
    if first["type"] == "value_error":
        return RecipeError(str(first["ctx"]["error"]), where=key)
    return RecipeError(complaint(first), where=key)


def _place(*parts: object) -> str | None:
    return ": ".join(str(part) for part in parts if part is not None) or None


def _allowed_keys(path: Sequence[str]) -> list[str]:
    nested: dict[str, type[BaseModel]] = {
        "data": Data,
        "model": ModelOptions,
        "loss": Loss,
        "keep": KeepEvery,
    }
    return list((nested[path[0]] if path else Recipe).model_fields)
