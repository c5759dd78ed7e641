"""What a command writes the next one reads, whatever the spelling of the teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boomerang
from boomerang.checkpoint.sources import Sources
from boomerang.sizing import member_sizes
from boomerang.verify import verify
from dialects import DIALECTS, KEPT, NUM_LAYERS, write_teacher

LAYERS = boomerang.LayerMap(KEPT, NUM_LAYERS)


def check_family(teacher: Path, student: Path, out: Path) -> None:
    """A student is of the teacher's spelling, is counted, and a built member is right."""
    for path in teacher.iterdir():
        if path.name not in ("config.json", "model.safetensors", "USE_POLICY.md"):
            assert (student / path.name).read_bytes() == path.read_bytes(), path.name
    config, ours = (json.loads((p / "config.json").read_text()) for p in (teacher, student))
    assert config.keys() <= ours.keys()
    family = Sources.open(teacher, student)
    sizes = member_sizes(family, family.members())
    assert [size.member.num_layers for size in sizes] == [3, 4, 5]
    boomerang.build(teacher, student, out, patch=1)
    result = verify(out)
    assert result.passed, result.difference


@pytest.mark.parametrize("name", DIALECTS)
def test_a_student_goes_with_a_teacher_of_any_dialect(name: str, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path, name)
    student = boomerang.init_student(teacher, tmp_path / "student", LAYERS)
    check_family(teacher, student, tmp_path / "member")


@pytest.mark.parametrize("name", ["gemma 1, hidden_act gelu", "granite 4.0 h", "qwen 2.5, tied"])
def test_a_distilled_student_does_too(name: str, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path, name)
    text = tmp_path / "text.txt"
    text.write_text("the sea was there. " * 200)
    recipe = {
        "teacher": str(teacher),
        "keep": list(KEPT),
        "out": str(tmp_path / "student"),
        "data": {"files": [str(text)], "sequence_length": 16, "packing": False},
        "training": {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True},
    }
    student = boomerang.distill(boomerang.Recipe.parse(recipe))
    check_family(teacher, student, tmp_path / "member")
