"""One model of what to measure, for Python, the command line and studies."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from boomerang.cli.evaluate import evaluate
from boomerang.errors import DataError
from boomerang.evaluate.options import Measure
from boomerang.study.config import Study


def test_paths_and_lists_are_taken_as_they_come() -> None:
    assert Measure.of({"texts": Path("a.txt")}).texts == ("a.txt",)
    assert Measure.of({"texts": iter(["a", Path("b")])}) == Measure.of({"texts": ("a", "b")})
    assert Measure.of({"tasks": ["x", "y"], "texts": None}).task_names == ("x", "y")
    assert Measure.of({"tasks": " x,y, x", "include_path": Path()}).task_names == ("x", "y")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to measure on"),
        ({"texts": "a", "window": 0}, "^window: input should be greater than or equal to 1, not 0"),
        ({"texts": "a", "limit": 0}, "^limit: input should be greater than 0, not 0"),
        ({"texts": "a", "num_fewshot": -1}, "^num_fewshot: .* or equal to 0, not -1"),
        ({"texts": "a", "stride": "x"}, "^stride: .*valid integer"),
        ({"texts": "a", "batch": 2}, "^batch: unknown key; did you mean batch_size"),
    ],
)
def test_a_value_that_cannot_be_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Measure.of(options)


def test_every_option_is_one_of_the_command_and_of_a_study() -> None:
    assert {*Measure.names()} <= {*inspect.signature(evaluate).parameters}
    study = Study.parse({"teacher": "t", "recipe": {}, "measure": {"tasks": "x", "window": 3}})
    assert isinstance(study.measure, Measure) and study.measure.window == 3
