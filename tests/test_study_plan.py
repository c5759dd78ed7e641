"""Plans: which runs a study has, what they are named after, and in what order they are done."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boomerang.distill.preflight import ModelSize
from boomerang.study.config import Study
from boomerang.study.plan import Job, Plan, make_plan
from boomerang.study.plan_inputs import Facts, find_facts
from boomerang.study.submit import _share, next_job
from tiny_models import tiny_model

FACTS = Facts(
    teacher="teacher",
    config={
        "num_hidden_layers": 8, "model_type": "qwen3", "num_attention_heads": 4, "head_dim": 4,
    },
    hash="t",
    layers=(100,) * 8,
    outside=50,
    training=("train.txt",),
    texts=("held.txt",),
    calibration=("some.txt",),
    hashes={"train.txt": "a", "held.txt": "b", "some.txt": "c"},
)  # fmt: skip
CONTENT: dict[str, Any] = {
    "teacher": "embedded",
    "recipe": {
        "data": {"sequence_length": 4},
        "training": {"max_steps": 5, "per_device_train_batch_size": 2},
    },
}


def plan(facts: Facts = FACTS, **changes: Any) -> Plan:
    return make_plan(Study.parse(CONTENT | changes), facts)


def names(found: Plan, kind: str) -> list[str]:
    return [job.name for job in found.jobs.values() if job.kind == kind]


def test_a_family_is_distilled_once_a_seed_and_then_measured() -> None:
    found = plan(seeds=[0, 1], variants={"naive": {"init": "untrained"}, "ce": {"loss": {"kl": 0}}})
    assert [(e.series, e.seed) for e in found.entries] == [
        ("family", 0), ("family", 1), ("naive", None), ("ce", 0), ("ce", 1),
    ]  # fmt: skip
    assert len(names(found, "distil")) == 4
    for job in found.jobs.values():
        assert (job.needs in found.jobs) == (job.kind == "family")
    first = found.jobs[names(found, "distil")[0]]
    assert first.tokens == 5 * 2 * 4
    # Kept 0, 2, 4, 6, 7: three times a pass of 550 parameters and five layers, once of the teacher.
    forward = 2 * (550 + 3 * 0) + 4 * 5 * 16 * 4
    assert first.flops == 40 * (3 * forward + 2 * 850 + 4 * 8 * 16 * 4)


def test_series_that_come_to_be_in_one_way_share_their_runs() -> None:
    alone = plan()
    same = plan(variants={"same": {"preset": "boomerang"}, "listed": {"keep": [0, 2, 4, 6, 7]}})
    assert list(same.jobs) == list(alone.jobs)
    assert [entry.series for entry in same.entries] == ["family", "same", "listed"]


def test_a_run_is_named_by_all_that_decides_its_outcome_and_nothing_else() -> None:
    base = plan()
    moved = Facts(
        **vars(FACTS) | {"training": ("x/t.txt",), "hashes": {"x/t.txt": "a"} | FACTS.hashes}
    )
    assert list(plan(moved).jobs) == list(base.jobs)
    assert list(plan(measure={"batch_size": 3}).jobs) == list(base.jobs)
    for hashes, changed in (({"train.txt": "new"}, True), ({"held.txt": "new"}, False)):
        other = plan(Facts(**vars(FACTS) | {"hashes": {**FACTS.hashes, **hashes}}))
        assert (names(other, "distil") != names(base, "distil")) == changed
        assert names(other, "family") != names(base, "family")
    measured = plan(measure={"window": 7})
    assert names(measured, "distil") == names(base, "distil")
    assert names(measured, "family") != names(base, "family")
    for facts in ({"hash": "u"}, {"config": {**FACTS.config, "model_type": "llama"}}):
        other = plan(Facts(**vars(FACTS) | facts))
        assert names(other, "distil") != names(base, "distil")


def test_a_changed_variant_is_redone_and_the_others_stay() -> None:
    before = plan(variants={"a": {"loss": {"kl": 0}}, "b": {"loss": {"ce": 0}}})
    after = plan(variants={"a": {"loss": {"kl": 0.5}}, "b": {"loss": {"ce": 0}}})
    missing = after.missing(frozenset(before.jobs))
    assert [job.title for job in missing] == ["distil a, seed 0", "measure a, seed 0"]


def test_a_student_is_distilled_only_to_be_measured() -> None:
    found = plan()
    [distil], [measure] = names(found, "distil"), names(found, "family")
    assert found.missing(frozenset({measure})) == []
    assert [job.name for job in found.missing(frozenset({distil}))] == [measure]


def test_baselines_are_of_the_family_s_sizes() -> None:
    baselines = {"shortgpt": True, "laco": True, "distilled": [6], "pretrained": ["m"]}
    found = plan(baselines=baselines, seeds=[0, 1])
    by_kind = {job.kind: job for job in found.jobs.values()}
    assert by_kind["shortgpt"].work["sizes"] == [5, 6, 7]
    assert by_kind["laco"].work["calibration"] == ["some.txt"]
    assert [(e.series, e.seed) for e in found.entries[2:]] == [
        ("shortgpt", None), ("laco", None), ("distilled", 0), ("distilled", 1),
        ("pretrained", None),
    ]  # fmt: skip
    sized = [job for job in found.jobs.values() if job.title.startswith("distil 6 layers")]
    assert [job.work["keep"] for job in sized] == [[0, 1, 3, 4, 6, 7]] * 2


def test_a_family_can_be_measured_along_several_orders() -> None:
    found = plan(measure={"orders": ["last-to-first", "first-to-last"]})
    assert len(names(found, "distil")) == 1
    assert len(names(found, "family")) == 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3_moe"])
@pytest.mark.parametrize("tied", [True, False])
def test_operations_are_those_that_distillation_counts(
    name: str, tied: bool, tmp_path: Path
) -> None:
    model = tiny_model(name, tied=tied)
    model.save_pretrained(tmp_path)
    study = Study.parse({"teacher": str(tmp_path), "recipe": {}, "measure": {"tasks": "arc_easy"}})
    facts = find_facts(study, tmp_path, download=False)
    assert facts.matrices(range(facts.num_layers)) == ModelSize.of(model).matrices


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=9), st.randoms())
def test_a_run_starts_after_the_one_it_needs_and_none_is_forgotten(
    shape: list[tuple[bool, int]], random: Random
) -> None:
    jobs: list[Job] = []
    for i, (measured, flops) in enumerate(shape):
        jobs.append(Job(f"distil-{i}", "distil", "", {}, flops=flops))
        if measured:
            jobs.append(Job(f"family-{i}", "family", "", {}, needs=f"distil-{i}"))
    waiting, at_work = list(jobs), list[Job]()
    ended: dict[str, bool] = {}
    while waiting or at_work:
        job = next_job(waiting, at_work) if random.random() < 0.5 or not at_work else None
        if job is not None:
            assert job.needs is None or ended[job.needs]
            waiting.remove(job)
            at_work.append(job)
        elif at_work:
            job = at_work.pop(random.randrange(len(at_work)))
            ended[job.name] = random.random() < 0.7
            if not ended[job.name]:
                waiting = [each for each in waiting if each.needs != job.name]
    for job in jobs:
        assert (job.name in ended) == (job.needs is None or ended[job.needs])


def test_what_can_be_measured_goes_first_and_then_the_longest() -> None:
    jobs = [
        Job("a", "distil", "", {}, flops=1), Job("b", "distil", "", {}, flops=2),
        Job("c", "family", "", {}, needs="a"), Job("d", "shortgpt", "", {}),
    ]  # fmt: skip
    taken: list[Job] = []
    while job := next_job([each for each in jobs if each not in taken], taken):
        taken.append(job)
    assert [job.name for job in taken] == ["d", "b", "a"]


def test_a_run_has_its_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    # None undoes what submitit sets, which hides all GPUs.
    assert _share(0, 1, []) == {"CUDA_VISIBLE_DEVICES": None}
    assert _share(3, 4, ["0", "2"]) == {"CUDA_VISIBLE_DEVICES": "2"}
    assert _share(0, 10_000, [])["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in _share(0, 2, [])
