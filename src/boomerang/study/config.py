"""What a study is: one YAML file, checked as a whole before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, field_validator, model_validator

from ..baselines import BASELINES, Kind
from ..errors import RecipeError, StudyError
from ..evaluate import options
from ..evaluate.results import FAMILY
from ..settings import Section, as_recipe_error, merged, overridden, read_yaml

Init = Literal["teacher", "random", "untrained"]
# As much as numpy, which Trainer seeds, takes.
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]

EMBEDDED = "embedded"
"""The name of the teacher that comes with the package, and of its texts."""

# What a study says about each baseline: whether to measure it, the sizes to distil, or the models.
_VALUES: dict[Kind, Any] = {
    "pruned": (bool, False),
    "distilled": (list[Annotated[int, Field(ge=1)]], []),
    "given": (list[str], []),
}
_ALONE = {name: each for name, each in BASELINES.items() if each.kind in _VALUES}
_RESERVED = (FAMILY, *_ALONE)
# What the study itself says to each of its runs.
_NOT_OF_A_RECIPE = ("teacher", "student", "out", "seed", "shard")
_CONFIGS = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class Measure(options.Measure):
    """What every model is measured on, and how.

    Of the embedded teacher `texts` are by default its held-out books.

    Args:
        dtype: Of all models as measured: torch's name; by default the teacher's.
        orders: The orders that every family is patched in; by default the one its recipe says.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    orders: list[Literal["last-to-first", "first-to-last"]] | None = None


class _Baselines(Section):
    """Baselines beside the family, each under its name, and what two of them need.

    Args:
        calibration: UTF-8 text files for baselines that a calibration text chooses; for the
            embedded teacher by default an excerpt of its training text.
    """

    calibration: list[str] | None = None

    def wanted(self, kind: Kind) -> Iterator[tuple[str, Any]]:
        """The baselines of a kind that the study names, and what it says about each."""
        for name, baseline in _ALONE.items():
            if baseline.kind == kind and getattr(self, name):
                yield name, getattr(self, name)


if TYPE_CHECKING:
    Baselines = _Baselines
else:
    Baselines = create_model(
        "Baselines", __base__=_Baselines, **{n: _VALUES[each.kind] for n, each in _ALONE.items()}
    )


class Study(Section):
    """Everything that decides what a study finds.

    Args:
        teacher: A directory, a hub id, or `embedded` for the teacher that comes with the package.
        recipe: The family's distillation recipe, without `teacher`, `student`, `out` and `seed`.
        measure: What every model is measured on.
        seeds: Each distillation is done once for each of them.
        variants: By name, what a variant changes in the recipe, key by key, and `init`: `teacher`
            (the default), `random` weights, or `untrained`: the cut of the teacher as it is.
        baselines: What else to compare with.
        figures: By file name, the series that a figure shows besides the family.

    Raises:
        StudyError: A key or value is not allowed; names the key.
    """

    teacher: str
    recipe: dict[str, Any]
    measure: Measure = Measure()
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]  # noqa: RUF012
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baselines: Baselines = Baselines()
    figures: dict[str, list[str]] = Field(default_factory=dict)

    @field_validator("variants", mode="before")
    @classmethod
    def _empty_variants(cls, value: Any) -> Any:
        # `paper:` with nothing behind it is a variant that changes nothing.
        if not isinstance(value, dict):
            return value
        return {name: {} if changes is None else changes for name, changes in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        lists: list[tuple[str, Sequence[object]]] = [
            ("seeds", self.seeds),
            ("measure.orders", self.measure.orders or ()),
            *((f"baselines.{name}", models) for name, models in self.baselines.wanted("given")),
        ]
        for place, values in lists:
            if len(set(values)) < len(values):
                raise ValueError(f"something is listed twice in {place}")
        _check_keys("recipe", self.recipe)
        for name, changes in self.variants.items():
            if not name.strip():
                raise ValueError("a variant has no name")
            if name in _RESERVED:
                raise ValueError(f"variants.{name} has a reserved name: {', '.join(_RESERVED)}")
            _check_keys(f"variants.{name}", changes)
            init = changes.get("init", "teacher")
            if init not in ("teacher", "random", "untrained"):
                raise ValueError(
                    f"variants.{name}.init is teacher, random or untrained, not {init!r}"
                )
        if self.teacher != EMBEDDED and not self.measure.texts and not self.measure.tasks:
            raise ValueError("there is nothing to measure on: set measure.texts or measure.tasks")
        pruned = [name for name, _ in self.baselines.wanted("pruned")]
        if self.teacher != EMBEDDED and pruned and not self.baselines.calibration:
            raise ValueError(f"{pruned[0]} needs a text: set baselines.calibration")
        self._check_figures()
        return self

    def _check_figures(self) -> None:
        known = {*self.variants, *_RESERVED}
        for name, series in self.figures.items():
            unknown = [each for each in series if each not in known]
            if unknown:
                raise ValueError(f"figures.{name} names {unknown[0]!r}, which is no series here")
            if not name or set(name) & set("/\\\0") or name.startswith("."):
                raise ValueError(f"figures.{name} is no file name")

    @classmethod
    def load(cls, source: str | Path, overrides: Sequence[str] = ()) -> Study:
        """Read a study.

        Args:
            source: A YAML file, or the name of a shipped study, such as `claims`.
            overrides: `key=value` pairs that replace what it says, as of a recipe.

        Raises:
            StudyError: It cannot be read, or a key or value is not allowed.
        """
        path = study_path(source)
        try:
            return cls.parse(read_yaml(path), overrides)
        except RecipeError as error:
            raise StudyError(error.what, where=error.where or source, fix=error.fix) from None
        except StudyError as error:
            where = source if error.where is None else f"{source}: {error.where}"
            raise StudyError(error.what, where=where, fix=error.fix) from None

    @classmethod
    def parse(cls, content: dict[str, Any], overrides: Sequence[str] = ()) -> Study:
        """Check a study that is given as a dict, which is left as it is.

        Raises:
            StudyError: A key or value is not allowed.
        """
        content = overridden(content, overrides)
        try:
            return cls(**{str(key): value for key, value in content.items()})
        except ValidationError as error:
            found = as_recipe_error(error, cls)
            raise StudyError(found.what, where=found.where, fix=found.fix) from None

    def series(self) -> dict[str, tuple[Init, dict[str, Any]]]:
        """How each family of the study comes to be: its student's start, and its recipe's keys.

        Returns:
            By series: the family first, then the variants in their order.
        """
        found: dict[str, tuple[Init, dict[str, Any]]] = {FAMILY: ("teacher", self.recipe)}
        for name, changes in self.variants.items():
            keys = {key: value for key, value in changes.items() if key != "init"}
            found[name] = (changes.get("init", "teacher"), merged(self.recipe, keys))
        return found


def _check_keys(place: str, recipe: Mapping[str, object]) -> None:
    for key in _NOT_OF_A_RECIPE:
        if key in recipe:
            raise ValueError(f"{place}.{key} is for the study to say: leave it out")


def shipped() -> list[str]:
    """The names of the studies that come with the package."""
    return sorted(path.stem for path in _CONFIGS.glob("*.yaml"))


def study_path(source: str | Path) -> Path:
    """The file of a study: a path, or the name of a shipped one.

    Raises:
        StudyError: It is neither.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        return path
    if str(source) not in shipped():
        raise StudyError(
            "is no YAML file and no study that comes with the package",
            where=source,
            fix=f"those are {', '.join(shipped())}",
        )
    return _CONFIGS / f"{source}.yaml"
