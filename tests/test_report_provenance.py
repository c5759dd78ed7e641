"""What is recorded beside results: where the family is, and what its members need to run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from boomerang.checkpoint.sources import Sources
from boomerang.cli import app
from boomerang.errors import ResultsError
from boomerang.evaluate.provenance import (
    PROVENANCE_FILE,
    Provenance,
    read_provenance,
    write_provenance,
)
from boomerang.layers import LAST_TO_FIRST, LayerMap
from boomerang.report.budget import choices
from boomerang.report.sources import read_sets
from boomerang.sizing import member_sizes
from disk import save_pair
from result_rows import text_rows, write_results

# Of qwen2 half the layers have a sliding window of 8 tokens; gemma3 has tied matrices.
NAMES = ("qwen2", "gemma3_text")


def _measured(directory: Path, name: str, order: str = LAST_TO_FIRST) -> tuple[Path, Path, Path]:
    """A pair on disk, and results of it beside."""
    teacher, student = save_pair(directory / name, name)
    sources = Sources.open(teacher, student)
    layers = sources.layers
    values = [30.0 - k for k in range(layers.max_patch + 1)]
    rows = text_rows("family", values, layers=layers, order=order)
    results = write_results(directory / name / "results", rows)
    write_provenance(results, sources, rows)
    return teacher, student, results


def _read(results: Path) -> Provenance:
    found = read_provenance(results)
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_what_sizing_counts(name: str, tmp_path: Path) -> None:
    teacher, student, results = _measured(tmp_path, name)
    (one,) = choices(read_sets([results]))
    family = Sources.open(teacher, student)
    assert one.context == 64 and one.everything == len(one.candidates)
    for context in (1, 5, 64):
        sizes = member_sizes(family, family.members(LAST_TO_FIRST), context=context)
        assert [each.memory(context).total for each in one.candidates] == [s.memory for s in sizes]
        assert [each.weights for each in one.candidates] == [size.bytes for size in sizes]
    assert one.contexts == (8, 16, 32, 64)


def test_the_recipe_and_who_they_are_is_recorded(tmp_path: Path) -> None:
    teacher, student, results = _measured(tmp_path, "qwen3")
    found = _read(results)
    assert found.teacher.id == str(teacher) and found.teacher.hash == "t"
    assert found.kept_layers == (0, 1, 3, 5) and found.num_teacher_layers == 7
    assert found.dtype == "float32" and found.recipe is None
    (student / "recipe.yaml").write_text("loss: {kl: 1}\n")
    sources = Sources.open(teacher, student)
    write_provenance(results, sources, text_rows("family", [1.0] * 4, layers=sources.layers))
    assert _read(results).recipe == "loss: {kl: 1}\n"


def test_kept_layers_that_were_given_are_in_the_command(tmp_path: Path) -> None:
    teacher, student, results = _measured(tmp_path, "qwen3")
    (one,) = choices(read_sets([results]))
    assert not any("--keep" in each.command for each in one.candidates)
    (student / "student_config.json").unlink()
    rows = text_rows("family", [1.0] * 4, layers=LayerMap((0, 1, 3, 5), 7))
    write_provenance(results, Sources.open(teacher, student, keep=[0, 1, 3, 5]), rows)
    (one,) = choices(read_sets([results]))
    command = shlex.split(one.candidates[1].command)
    assert command[command.index("--keep") + 1] == "0,1,3,5"
    command[4] = str(tmp_path / "member")
    app(command[1:], standalone_mode=False)
    assert (tmp_path / "member" / "config.json").exists()


def test_records_from_before_are_read(tmp_path: Path) -> None:
    _, _, results = _measured(tmp_path, "qwen3")
    path = results / PROVENANCE_FILE
    content = json.loads(path.read_text())
    del content["keep_given"]
    path.write_text(json.dumps(content))
    assert not _read(results).keep_given


def test_baselines_write_nothing(tmp_path: Path) -> None:
    sources = Sources.open(*save_pair(tmp_path, "qwen3"))
    write_provenance(tmp_path, sources, text_rows("random", [1.0] * 4))
    assert not (tmp_path / PROVENANCE_FILE).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 7}, "has schema version 7, not 1"),
        ({"teacher": "somewhere"}, 'field "teacher" is .somewhere.'),
        ({"context": 0}, 'field "context" is 0: .*greater'),
        ({"kept_layers": []}, 'field "kept_layers" is .*at least 1 item'),
        ({"built": [{"member": [], "parameters": 1}]}, 'field "built.0.bytes" is missing'),
    ],
)
def test_a_damaged_record_is_refused_by_field(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _, _, results = _measured(tmp_path, "qwen3")
    path = results / PROVENANCE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultsError, match=message):
        read_sets([results])
    path.write_text("{")
    with pytest.raises(ResultsError, match="cannot be read as JSON"):
        read_provenance(results)
