"""From a study to the list of its runs: arithmetic on what it says and on content hashes.

A run is named by the content of all that decides its outcome. So what is done stays done when other
parts of the study change, and two series that are made in the same way share their runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..baselines.distilled import size_recipe
from ..distill.preflight import flops_per_token
from ..distill.recipe import ModelOptions, Recipe
from ..errors import LayerMapError, RecipeError, StudyError
from ..evaluate.results import FAMILY
from ..layers import Order
from .config import Init, Study
from .plan_inputs import Facts

_KEEP = {"every": 2, "first": 1, "last": 2}
# The default of transformers.TrainingArguments.
_BATCH_SIZE = 8


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        name: Its kind and a hash of all that decides its outcome.
        kind: `distil`, or what is measured: `family`, `untrained`, or a baseline's name.
        title: What it is, for people.
        work: What to do it with, as JSON values.
        needs: The distillation whose student it measures, or None.
        tokens: The tokens that a distillation trains on; None for others, or if not known.
        flops: The floating-point operations it takes, or None.
    """

    name: str
    kind: str
    title: str
    work: Mapping[str, Any]
    needs: str | None = None
    tokens: int | None = None
    flops: int | None = None


@dataclass(frozen=True)
class Entry:
    """Which series and seed the results of a run belong to.

    Args:
        series: The series.
        seed: The seed of the distillation; None without one.
        job: The run that measured it.
    """

    series: str
    seed: int | None
    job: str


@dataclass(frozen=True)
class Plan:
    """All runs of a study, a distillation before those that need it.

    Args:
        jobs: The runs by name, each once.
        entries: The series of each run's results, the family first.
    """

    jobs: Mapping[str, Job]
    entries: tuple[Entry, ...]

    def missing(self, done: frozenset[str]) -> list[Job]:
        """The runs that are left: a distillation only if its student is still to be measured."""
        measured = [job for job in self.jobs.values() if job.kind != "distil"]
        wanted = {job.name for job in measured if job.name not in done}
        wanted |= {job.needs for job in measured if job.name in wanted and job.needs is not None}
        return [job for job in self.jobs.values() if job.name in wanted - done]


def make_plan(study: Study, facts: Facts) -> Plan:
    """The runs of a study.

    Raises:
        StudyError: A recipe of it does not fit the teacher; names the variant.
    """
    jobs: dict[str, Job] = {}
    entries: list[Entry] = []
    for series, seed, made in [*_families(study, facts), *_baselines(study, facts)]:
        # Runs that several series share keep the first one's title.
        for job in made:
            jobs.setdefault(job.name, job)
        entries += [Entry(series, seed, job.name) for job in made if job.kind != "distil"]
    return Plan(jobs, tuple(entries))


_Made = tuple[str, int | None, list[Job]]


def _families(study: Study, facts: Facts) -> Iterator[_Made]:
    for series, (init, keys) in study.series().items():
        place = "recipe" if series == FAMILY else f"variants.{series}"
        if init == "untrained":
            recipe = family_recipe(keys, facts, 0, place)
            work = {"keep": recipe.layers(facts.num_layers).kept}
            yield series, None, list(_along_orders("untrained", series, work, recipe, study, facts))
            continue
        for seed in study.seeds:
            recipe = family_recipe(keys, facts, seed, place)
            if init == "random" and recipe.freeze:
                raise StudyError(
                    f"{' and '.join(recipe.freeze)} would stay at random weights",
                    where=f"{place}.freeze",
                    fix="set it to [], so that all of the student can learn",
                )
            title = f"{series}, seed {seed}"
            first = _distillation(recipe, init, title, facts)
            measured = _along_orders("family", title, {}, recipe, study, facts, first)
            yield series, seed, [first, *measured]


def _baselines(study: Study, facts: Facts) -> Iterator[_Made]:
    baselines = study.baselines
    recipe = family_recipe(study.recipe, facts, 0, "recipe")
    layers = recipe.layers(facts.num_layers)
    sizes = sorted({member.num_layers for member in layers.members(_order(recipe))})[:-1]
    alone: dict[str, Any] = {"keep": layers.kept}
    for name, _ in baselines.wanted("pruned"):
        work = {**alone, "sizes": sizes, "calibration": list(facts.calibration)}
        yield name, None, [_measurement(name, name, work, study, facts)]
    for name, wanted in baselines.wanted("distilled"):
        for size in sorted(set(wanted)):
            for seed in study.seeds:
                title = f"{size} layers by themselves, seed {seed}"
                first = _distillation(_sized(study, facts, seed, size), "teacher", title, facts)
                yield name, seed, [first, _measurement(name, title, alone, study, facts, first)]
    for name, models in baselines.wanted("given"):
        for model in models:
            work = {**alone, "model": model}
            yield name, None, [_measurement(name, model, work, study, facts)]


def family_recipe(keys: Mapping[str, Any], facts: Facts, seed: int, place: str) -> Recipe:
    """The recipe of one distillation, with an empty `out`.

    Args:
        keys: What the study says.
        facts: About the teacher.
        seed: The seed.
        place: The key that errors name.

    Raises:
        StudyError: The recipe does not fit this teacher.
    """
    data = keys.get("data") or {}
    # The recipe refuses what is no set of keys.
    named = not isinstance(data, dict) or data.get("files") or data.get("sources")
    if facts.training and not named:
        data = {**data, "files": list(facts.training)}
    content = {"keep": _KEEP, **keys, "data": data}
    content |= {"teacher": facts.teacher, "out": "", "seed": seed}
    try:
        return Recipe.parse(content).resolved(dict(facts.config))
    except RecipeError as error:
        where = place if error.where is None else f"{place}.{error.where}"
        raise StudyError(error.what, where=where, fix=error.fix) from None


def _sized(study: Study, facts: Facts, seed: int, size: int) -> Recipe:
    recipe = family_recipe(study.recipe, facts, seed, "recipe")
    try:
        sized = size_recipe(recipe, size, facts.num_layers, "")
    except LayerMapError as error:
        raise StudyError(error.what, where="baselines.distilled", fix=error.fix) from None
    return sized.resolved(dict(facts.config))


def _distillation(recipe: Recipe, init: Init, title: str, facts: Facts) -> Job:
    kept = recipe.layers(facts.num_layers).kept
    tokens, length = _tokens(recipe), recipe.data.sequence_length
    each = flops_per_token(facts.matrices(kept), facts.matrices(range(facts.num_layers)), length)
    return Job(
        name=_name("distil", facts, {"recipe": _portable(recipe, facts), "init": init}),
        kind="distil",
        title=f"distil {title}",
        work={"recipe": recipe.model_dump(mode="json"), "init": init, "keep": list(kept)},
        tokens=tokens,
        flops=None if tokens is None else tokens * each,
    )


def _tokens(recipe: Recipe) -> int | None:
    """Tokens that a recipe trains on in one process; None where the text decides (epochs)."""
    training = recipe.training
    steps = training.get("max_steps", -1)
    rows = training.get("per_device_train_batch_size", _BATCH_SIZE)
    rows *= training.get("gradient_accumulation_steps", 1)
    return int(steps * rows * recipe.data.sequence_length) if steps > 0 else None


def _along_orders(
    kind: str,
    title: str,
    work: Mapping[str, Any],
    recipe: Recipe,
    study: Study,
    facts: Facts,
    needs: Job | None = None,
) -> Iterator[Job]:
    """One run for each order that a family is patched in."""
    orders: Sequence[Order] = study.measure.orders or [_order(recipe)]
    for order in orders:
        words = f"{title}, {order}" if len(orders) > 1 else title
        yield _measurement(kind, words, {**work, "order": order}, study, facts, needs)


def _measurement(
    kind: str,
    title: str,
    work: Mapping[str, Any],
    study: Study,
    facts: Facts,
    needs: Job | None = None,
) -> Job:
    given = {each.name: getattr(study.measure, each.name) for each in fields(study.measure)}
    settings = {
        each.name: given[each.name]
        for each in fields(study.measure)
        if each.name not in ("orders", "texts") and given[each.name] != each.default
    }
    values: dict[str, Any] = json.loads(json.dumps(dict(work)))
    student = None if needs is None else needs.name
    content: dict[str, Any] = {
        "work": _hashed(values, facts),
        "student": student,
        # Rows carry the name of the text.
        "texts": [(_stem(path), facts.hashes[path]) for path in facts.texts],
        "measure": {key: value for key, value in settings.items() if key != "batch_size"},
    }
    values |= {
        "teacher": facts.teacher,
        "measure": {**settings, "texts": list(facts.texts)},
        "loading": ModelOptions(**(study.recipe.get("model") or {})).for_model(),
    }
    return Job(_name(kind, facts, content), kind, f"measure {title}", values, needs=student)


def _order(recipe: Recipe) -> str | list[int]:
    assert recipe.order is not None
    return recipe.order


def _portable(recipe: Recipe, facts: Facts) -> dict[str, Any]:
    """What of a recipe decides its outcome, without names of places or of presets.

    Keys at their default are left out, so that keys which recipes learn later change no name.
    """
    outside = {"out", "teacher", "student", "preset", "seed", "keep", "evaluate", "shard"}
    content = recipe.model_dump(mode="json", exclude_defaults=True, exclude=outside)
    content["data"] = _hashed(content["data"], facts)
    kept = recipe.layers(facts.num_layers).kept
    return {**content, "seed": recipe.seed, "keep": list(kept)}


def _hashed(value: Any, facts: Facts) -> Any:
    """A JSON value with hashes in the place of files and models."""
    if isinstance(value, list):
        return [_hashed(each, facts) for each in value]
    if isinstance(value, dict):
        return {key: _hashed(each, facts) for key, each in value.items()}
    return facts.hashes.get(value, value) if isinstance(value, str) else value


def _stem(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].rpartition(".")[0] or path


def _name(kind: str, facts: Facts, content: Mapping[str, Any]) -> str:
    text = json.dumps({"teacher": facts.hash, **content}, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
