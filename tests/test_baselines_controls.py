"""Naive pruning and the random control, measured beside a family."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from boomerang import Family, LayerMap, init_student
from boomerang.baselines import BASELINES
from boomerang.baselines import naive as naive_pruning
from boomerang.baselines import random as random_control
from boomerang.baselines.bench import Bench
from boomerang.baselines.naive import cut_hash, naive_family
from boomerang.checkpoint.loading import load_model
from boomerang.cli.baseline import app as commands
from boomerang.evaluate.results import Row, read_results
from boomerang.hashing import content_hash
from boomerang.report.series import series_name
from boomerang.study.config import Baselines
from boomerang.text.documents import read_documents

LAYERS = LayerMap((0, 2, 4), 5)
SETTINGS: dict[str, Any] = {"window": 64, "order": "first-to-last"}


@pytest.fixture
def text(tmp_path: Path, stories_text: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(read_documents([stories_text])[:2]))
    return path


def _perplexities(rows: list[Row]) -> list[float]:
    return [row.value for row in rows if row.metric == "perplexity"]


def test_naive_and_random_share_one_output(tmp_path: Path, stories: Path, text: Path) -> None:
    out = tmp_path / "out"
    control = init_student(stories, tmp_path / "control", LAYERS, random=True)
    bench = Bench.open(stories, control)
    naive = naive_pruning.run(bench, out, texts=[text], **SETTINGS)
    random = random_control.run(bench, out, texts=[text], **SETTINGS)
    assert read_results(out) == naive + random
    assert {row.series for row in naive} == {"naive"}
    assert {row.series for row in random} == {"random"}
    assert {row.student for row in naive} == {cut_hash(content_hash(stories), LAYERS)}
    # Both end at the teacher. Only the teacher's own layers get better on the way there.
    pruned, blank = _perplexities(naive), _perplexities(random)
    assert pruned[2] == blank[2] < 10
    assert 100 > pruned[0] > pruned[1] > pruned[2]
    assert blank[0] > 200 and blank[1] > 200
    # A second run finds everything done.
    written = (out / "results.jsonl").read_bytes()
    assert naive_pruning.run(bench, out, texts=[text], **SETTINGS) == naive
    assert (out / "results.jsonl").read_bytes() == written


def test_the_naive_family_is_the_untrained_student(tmp_path: Path, stories: Path) -> None:
    init_student(stories, tmp_path / "cut", LAYERS)
    naive = naive_family(load_model(stories), LAYERS)
    saved = Family.from_pretrained(stories, tmp_path / "cut")
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        for patch in range(3):
            torch.testing.assert_close(
                naive.model(patch=patch)(tokens).logits, saved.model(patch=patch)(tokens).logits
            )


def test_kept_layers_give_naive_students_hashes_of_their_own() -> None:
    hashes = {cut_hash(teacher, LayerMap(kept, 5)) for teacher in "ab" for kept in [(0, 2), (0, 3)]}
    assert len(hashes) == 4
    assert all(len(value) == 16 for value in hashes)


def test_the_command_studies_and_reports_know_every_baseline() -> None:
    listed = {command.name for command in commands.registered_commands}
    assert listed == set(BASELINES)
    for name, baseline in BASELINES.items():
        assert hasattr(import_module(f"boomerang.baselines.{name}"), "run")
        assert series_name(name) == baseline.label
        # Naive pruning and the random control are variants of a study.
        assert (name in Baselines.model_fields) == (baseline.kind != "patched")
