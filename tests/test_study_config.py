"""A study as it is written: what is refused, and how it says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from boomerang import LayerMap
from boomerang.checkpoint.directory import read_config
from boomerang.errors import StudyError
from boomerang.models.config import num_layers
from boomerang.study.config import Study, shipped
from boomerang.study.plan import family_recipe, make_plan
from boomerang.study.plan_inputs import find_facts

CONTENT: dict[str, Any] = {
    "teacher": "embedded",
    "recipe": {"data": {"sequence_length": 256}, "training": {"max_steps": 2}},
}
# The five pairs of the paper's table: kept layers as f, l, n and the order.
PAIRS = {
    "paper-qwen3-4b": ("Qwen3-4B-Base", 19, "last-to-first"),
    "paper-qwen3-8b": ("Qwen3-8B-Base", 19, "last-to-first"),
    "paper-pythia-2.8b": ("pythia-2.8b", 17, "last-to-first"),
    "paper-pythia-6.9b": ("pythia-6.9b", 17, "last-to-first"),
    "paper-llama-3.2-3b": ("Llama-3.2-3B", 15, "first-to-last"),
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"varants": {}}, "varants: unknown key; did you mean variants?"),
        ({"measure": {"windw": 3}}, "measure.windw: unknown key; did you mean window?"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [1, 1]}, "something is listed twice in seeds"),
        ({"seeds": [1 << 32]}, "seeds.0: "),
        ({"measure": {"orders": ["last-to-first"] * 2}}, "listed twice in measure.orders"),
        ({"baselines": {"pretrained": ["a", "a"]}}, "listed twice in baselines.pretrained"),
        ({"variants": {"": {"loss": {"kl": 0}}}}, "a variant has no name"),
        ({"recipe": {"teacher": "x"}}, "recipe.teacher is for the study to say"),
        ({"variants": {"a": {"seed": 3}}}, "variants.a.seed is for the study to say"),
        ({"variants": {"a": {"init": "naive"}}}, "init is teacher, random or untrained"),
        ({"variants": {"family": {}}}, "variants.family has a reserved name"),
        ({"teacher": "mine"}, "nothing to measure on: set measure.texts or measure.tasks"),
        ({"figures": {"a": ["other"]}}, "figures.a names 'other', which is no series here"),
        ({"figures": {"../a": []}}, "is no file name"),
        (
            {"teacher": "mine", "measure": {"tasks": "x"}, "baselines": {"laco": True}},
            "set baselines.calibration",
        ),
    ],
)
def test_a_mistake_is_told_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as refused:
        Study.parse(CONTENT | changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": {"a": {"loss": {"lk": 1}}}}, "variants.a.loss.lk: unknown key"),
        ({"variants": {"a": {"keep": [0, 99]}}}, "variants.a.keep: "),
        ({"variants": {"a": {"keep": {"every": 3}, "order": [0, 1]}}}, "variants.a.order: "),
        ({"recipe": {"data": {}}}, "recipe.data.sequence_length: is missing"),
        ({"recipe": {"data": 3}}, "recipe.data: "),
        ({"recipe": {"data": {"sources": 3}}}, "recipe.data."),
        ({"variants": {"a": {"data": "x"}}}, "variants.a.data: "),
        ({"variants": {"a": {"init": "random"}}}, "a.freeze: embedding and head would stay"),
        ({"baselines": {"distilled": [16]}}, "baselines.distilled: 16 of 16 layers"),
    ],
)
def test_what_does_not_fit_the_teacher_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    study = Study.parse(CONTENT | changes)
    with pytest.raises(StudyError) as refused:
        make_plan(study, find_facts(study, tmp_path, download=False))
    assert said in str(refused.value)
    assert not any(tmp_path.iterdir())


def test_single_values_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("teacher: embedded\nrecipe: {data: {sequence_length: 64}}\n")
    study = Study.load(path, ["seeds=[3, 4]", "variants.ce.loss.kl=0"])
    assert study.seeds == [3, 4]
    assert study.series()["ce"] == (
        "teacher",
        {"data": {"sequence_length": 64}, "loss": {"kl": 0}},
    )


def test_an_unknown_name_lists_those_that_come_along() -> None:
    with pytest.raises(StudyError, match=r"those are claims, paper-llama-3\.2-3b, "):
        Study.load("clams")


def test_the_pairs_of_the_paper_have_its_values(configs: Path, tmp_path: Path) -> None:
    assert set(shipped()) == {"claims", *PAIRS}
    for name, (teacher, kept, order) in PAIRS.items():
        study = Study.load(name)
        directory = tmp_path / teacher
        directory.mkdir()
        shutil.copy(configs / f"{teacher}.json", directory / "config.json")
        assert study.teacher.partition("/")[2] == teacher
        here = study.model_copy(update={"teacher": str(directory)})
        facts = find_facts(here, tmp_path, download=False)
        recipe = family_recipe(here.recipe, facts, 0, "recipe")
        layers = recipe.layers(num_layers(read_config(directory)))
        assert (len(layers.kept), recipe.order, recipe.preset) == (kept, order, "paper")
        assert layers.max_patch == kept - 2
        [first, *_] = make_plan(here, facts).jobs.values()
        assert first.tokens == 500 * 2048 * 2048
    assert layers.kept == LayerMap((0, *range(1, 28, 2)), 28).kept


def test_the_claims_take_an_hour_on_two_cores(tmp_path: Path) -> None:
    study = Study.load("claims")
    found = make_plan(study, find_facts(study, tmp_path, download=False))
    # CPU seconds on one core of an AMD EPYC, from jobs.jsonl of such a study: the family's
    # distillation, the members of a family, and the search of LaCo.
    first = next(iter(found.jobs.values()))
    assert first.flops and first.tokens == 240 * 16 * 256
    distilled = sum(job.flops or 0 for job in found.jobs.values()) / first.flops * 210
    measured = 20 * sum(job.kind != "distil" for job in found.jobs.values()) + 100
    assert 40 * 60 < (distilled + measured) / 2 < 75 * 60
    assert len(study.seeds) == 2
    budgets = {job.tokens for job in found.jobs.values() if job.kind == "distil"}
    assert len(budgets) == 3
