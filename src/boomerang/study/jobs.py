"""Doing one run of a study, in this process. All that is slow or needs torch is here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..baselines import BASELINES, naive
from ..baselines.bench import Bench
from ..checkpoint.output import write_text
from ..checkpoint.sources import Source, Sources
from ..distill import distill
from ..distill.recipe import FILE_NAME, Recipe
from ..evaluate import evaluate
from ..evaluate.provenance import PROVENANCE_FILE
from ..evaluate.results import Row
from ..evaluate.store import SETTINGS_FILE
from ..layers import LayerMap
from ..models.config import num_layers
from ..student import init_student
from .plan import Job
from .records import Cost, Directory, Record


def do(job: Job, directory: Directory) -> Record:
    """Do a run and record it; what a stopped run began is continued.

    Args:
        job: The run; the distillation it needs is done.
        directory: The study's.

    Raises:
        BoomerangError: As `boomerang.distill` and `boomerang.evaluate`.
    """
    scratch = directory.scratch(job.name)
    resumed = scratch.exists()
    scratch.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.monotonic(), time.process_time()
    rows = _KINDS[job.kind](job, directory, scratch)
    cost = Cost(
        cpu_seconds=round(time.process_time() - cpu, 1),
        wall_seconds=round(time.monotonic() - wall, 1),
        threads=torch.get_num_threads(),
        device=_device_name(),
        resumed=resumed,
    )
    family, settings = scratch / PROVENANCE_FILE, scratch / SETTINGS_FILE
    if family.exists():
        directory.family(job.name).parent.mkdir(parents=True, exist_ok=True)
        family.replace(directory.family(job.name))
    evaluation = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
    record = Record(job=job.name, cost=cost, rows=tuple(rows), evaluation=evaluation)
    directory.write_record(record)
    # Answers item by item, the cut with random weights: nothing asks for them any more.
    shutil.rmtree(scratch, ignore_errors=True)
    return record


def _distil(job: Job, directory: Directory, scratch: Path) -> list[Row]:
    recipe = Recipe.parse(dict(job.work["recipe"]))
    changes: dict[str, Any] = {"out": str(directory.student(job.name))}
    if job.work["init"] == "random":
        cut = scratch / "random"
        if not cut.exists():
            teacher = Source.open(recipe.teacher)
            layers = recipe.layers(num_layers(teacher.config))
            init_student(teacher, cut, layers, random=True, seed=recipe.seed)
        changes |= {"student": str(cut), "keep": None}
    recipe = Recipe(**recipe.model_dump() | changes)
    began = directory.student(job.name) / FILE_NAME
    if began.exists():
        # The run is known by content: begun under other names of the same files, it goes on.
        write_text(began, recipe.to_yaml())
    distill(recipe)
    return []


def _family(job: Job, directory: Directory, scratch: Path) -> list[Row]:
    assert job.needs is not None
    return evaluate(
        job.work["teacher"], directory.student(job.needs), scratch, order=job.work["order"],
        **_loading(job), **_settings(job),
    )  # fmt: skip


def _untrained(job: Job, directory: Directory, scratch: Path) -> list[Row]:
    return naive.run(_bench(job), scratch, order=job.work["order"], **_settings(job))


def _baseline(job: Job, directory: Directory, scratch: Path) -> list[Row]:
    bench, baseline = _bench(job), BASELINES[job.kind]
    if baseline.kind == "pruned":
        options = {"layers": job.work["sizes"], "calibration": job.work["calibration"]}
        return baseline.run(bench, scratch, **options, **_settings(job))
    if baseline.kind == "given":
        return baseline.run(bench, scratch, model=[job.work["model"]], **_settings(job))
    # A run of its own has distilled the student.
    assert job.needs is not None
    model = bench.checkpoint(job.kind, directory.student(job.needs))
    return bench.measure([model], scratch, **_settings(job))


_KINDS: dict[str, Callable[[Job, Directory, Path], list[Row]]] = {
    "distil": _distil,
    "family": _family,
    "untrained": _untrained,
    **dict.fromkeys(BASELINES, _baseline),
}


def _bench(job: Job) -> Bench:
    return Bench(_sources(job), _loading(job))


def _sources(job: Job) -> Sources:
    trust = bool(job.work["loading"].get("trust_remote_code", False))
    teacher = Source.open(job.work["teacher"], trust_remote_code=trust)
    return Sources.uncut(teacher, LayerMap(job.work["keep"], num_layers(teacher.config)))


def _settings(job: Job) -> dict[str, Any]:
    """What to measure on and how, as `boomerang.evaluate` takes it."""
    settings = {key: value for key, value in job.work["measure"].items() if key != "dtype"}
    return settings | {"tasks": settings.get("tasks") or ()}


def _loading(job: Job) -> dict[str, Any]:
    """How models are loaded, as `from_pretrained` takes it."""
    name = job.work["measure"].get("dtype")
    dtype = {} if name is None else {"dtype": getattr(torch, name)}
    return {"device": _device(), **dtype, **job.work["loading"]}


def _device() -> str:
    """The accelerator if there is one: where Trainer distils, too."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _device_name() -> str:
    device = _device()
    return torch.cuda.get_device_name() if device == "cuda" else device
