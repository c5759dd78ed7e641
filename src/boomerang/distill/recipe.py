"""The recipe of a distillation run: one YAML file, checked as a whole before anything heavy starts.

The recipe is saved as `recipe.yaml` into the output it leads to, so that a result says how it was
made and an interrupted run can be told from another one.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import RecipeError
from ..layers import LayerMap

Part = Literal["embedding", "head"]
Distance = Literal["cosine", "relative_squared_error"]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

FILE_NAME = "recipe.yaml"

# Fields of TrainingArguments that mean something else here or nothing at all.
_NOT_FOR_TRAINING = {
    "output_dir": "give the output as `out`",
    "seed": "give the seed as `seed`",
    "resume_from_checkpoint": "an interrupted run is continued by itself",
    "label_smoothing_factor": "the loss is given under `loss`",
    "use_liger_kernel": "the losses here need the student's logits",
    "disable_tqdm": "progress has its own display",
}


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
        files: Text files, UTF-8.
        sequence_length: Tokens in a row.
        separator: What stands between documents; by default each file is one document.
        packing: Documents one after the other, cut into full rows; otherwise one document a row,
            cut off or padded.
        held_out: Rows at the end of the text that are not trained on but kept for evaluation.
    """

    files: Annotated[list[str], Field(min_length=1)]
    sequence_length: Annotated[int, Field(ge=2)]
    separator: Annotated[str, Field(min_length=1)] | None = None
    packing: bool = True
    held_out: Annotated[int, Field(ge=0)] = 0


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
            cosine, warmup 1 %, clip 1.0 (arXiv 2510.05064, section 4).
    """

    teacher: str
    student: str | None = None
    keep: list[int] | KeepEvery | None = None
    out: str
    data: Data
    loss: Loss = Loss()
    switch: Probability = 0.0
    mirror: Probability = 0.0
    freeze: list[Part] = []
    mode: Literal["clean", "reference"] = "clean"
    seed: int = 0
    training: dict[str, Any] = {}

    @field_validator("training")
    @classmethod
    def _known_training_fields(cls, training: dict[str, Any]) -> dict[str, Any]:
        if training:
            _check_training(training)
        return training

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if (self.student is None) == (self.keep is None):
            raise ValueError("the student is given by either `student` or `keep`: give just one")
        if self.switch + self.mirror > 1:
            raise ValueError("switch + mirror is more than 1: they are probabilities of one draw")
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
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YamlLoader)
        except OSError as error:
            raise RecipeError(f"cannot be read ({error.strerror})", where=path) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"is no YAML ({_one_line(error)})", where=path) from None
        if not isinstance(content, dict):
            raise RecipeError("holds no keys", where=path, fix="write `teacher: ...` and so on")
        return cls.parse(content, overrides, where=path)

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
        for override in overrides:
            _override(content, override)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise _as_recipe_error(error, where) from None

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


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.1 reads `2e-3` as text; here it is the number everyone means."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise RecipeError(f"{override!r} is no setting", fix="write key=value, such as loss.kl=1")
    try:
        value = yaml.load(text, Loader=_YamlLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{text!r} is no YAML ({_one_line(error)})", where=key) from None
    target = content
    for part in path[:-1]:
        inner = target.get(part)
        inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise RecipeError(f"{part} has no keys of its own", where=key)
        target[part] = inner
        target = inner
    target[path[-1]] = value


def _check_training(training: dict[str, Any]) -> None:
    # Importing transformers costs seconds, and a recipe without the key does not need it.
    from transformers import TrainingArguments

    allowed = TrainingArguments.__dataclass_fields__.keys() - _NOT_FOR_TRAINING.keys()
    for key in training:
        if key in _NOT_FOR_TRAINING:
            raise ValueError(f"{key} is not set here: {_NOT_FOR_TRAINING[key]}")
        if key not in allowed:
            raise ValueError(f"{key} is no field of TrainingArguments{_hint(key, allowed)}")


def _hint(key: str, allowed: Sequence[str] | set[str]) -> str:
    near = difflib.get_close_matches(key, list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _as_recipe_error(error: ValidationError, where: object) -> RecipeError:
    """One of pydantic's complaints as one line that names the key and what is allowed."""
    # Of the alternatives of a union the one that was meant got furthest; its name is no user's key.
    first = max(error.errors(), key=lambda complaint: len(complaint["loc"]))
    path = [str(part) for part in first["loc"] if part not in ("list[int]", "KeepEvery")]
    key = ".".join(path)
    place = ": ".join(str(part) for part in (where, key or None) if part is not None) or None
    if first["type"] == "extra_forbidden":
        allowed = _allowed_keys(path[:-1])
        hint = _hint(path[-1], allowed) or f"; allowed are {', '.join(allowed)}"
        return RecipeError(f"unknown key{hint}", where=place)
    if first["type"] == "missing":
        return RecipeError("is missing", where=place)
    if first["type"] == "value_error":
        return RecipeError(str(first["ctx"]["error"]), where=place)
    message = first["msg"][0].lower() + first["msg"][1:]
    return RecipeError(f"{message}, not {first['input']!r}", where=place)


def _allowed_keys(path: Sequence[str]) -> list[str]:
    nested: dict[str, type[BaseModel]] = {"data": Data, "loss": Loss, "keep": KeepEvery}
    return list((nested[path[0]] if path else Recipe).model_fields)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
