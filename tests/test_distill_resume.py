"""Which rows a run sees, and when: each once an epoch, interrupted or not."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import boomerang
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Recipe
from boomerang.errors import DataError
from boomerang.text.prepare import load_phases, load_rows

# The rows of each step's micro-batches, each row as its tokens.
Seen = dict[int, list[tuple[int, ...]]]

ROWS = 26


class Interrupted(Exception):
    pass


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], Seen]:
    """Begin to record what is trained on; the run breaks off in the step that is given."""
    forward = DistillModule.forward

    def record(broken: int | None = None) -> Seen:
        found: Seen = {}

        @functools.wraps(forward)
        def patched(self: DistillModule, *args: Any, **kwargs: Any) -> Any:
            if self.training:
                step = kwargs["step"]
                rows = found.setdefault(step, [])
                rows.extend(map(tuple, kwargs["input_ids"].tolist()))
                if step == broken and len(rows) > 4:
                    raise Interrupted
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(DistillModule, "forward", patched)
        return found

    return record


def recipe(stories: Path, text: Path, out: Path, **changes: Any) -> Recipe:
    """Three epochs of 26 rows, 8 rows a step in two micro-batches: 4 steps an epoch."""
    text.write_text((stories.parents[1] / "data/tinystories-sample/stories.txt").read_text()[:3800])
    content: dict[str, Any] = {
        "teacher": str(stories),
        "keep": [0, 2, 4],
        "out": str(out),
        "data": {"files": [str(text)], "sequence_length": 64, "held_out": 2},
        "training": {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "save_steps": 2,
            "save_total_limit": 1,
            "eval_strategy": "no",
            "use_cpu": True,
        },
    }
    return Recipe.parse(content | changes)


def test_an_interrupted_run_sees_every_token_once_an_epoch(
    seen: Any, tmp_path: Path, stories: Path
) -> None:
    text = tmp_path / "text.txt"
    straight = seen()
    one = boomerang.distill(recipe(stories, text, tmp_path / "straight"))
    rows, _ = load_rows(recipe(stories, text, one).data, one / "data")
    assert len(rows) == ROWS
    every = Counter(tuple(row["input_ids"].tolist()) for row in rows)
    for epoch in range(3):
        found = [row for step in range(4 * epoch, 4 * epoch + 4) for row in straight[step]]
        assert Counter(found) == every
    orders = [tuple(straight[4 * epoch][0] for epoch in range(3))]
    assert len(set(orders[0])) > 1

    # In the middle of the second epoch, and in the first step of the third.
    again: Seen = {}
    for broken in (6, 8, None):
        part = seen(broken)
        run = recipe(stories, text, tmp_path / "broken")
        if broken is None:
            boomerang.distill(run)
        else:
            with pytest.raises(Interrupted):
                boomerang.distill(run)
            part.pop(broken)
        assert not set(part) & set(again)
        again |= part
    assert again == straight
    weights = [path / "model.safetensors" for path in (one, tmp_path / "broken")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_order_of_the_rows_is_the_seeds(seen: Any, tmp_path: Path, stories: Path) -> None:
    orders = []
    for number, changes in enumerate(({}, {"switch": 0.5, "mirror": 0.5}, {"seed": 1})):
        found = seen()
        training = {"max_steps": 3, "per_device_train_batch_size": 8, "use_cpu": True}
        run = recipe(
            stories, tmp_path / "text.txt", tmp_path / str(number), training=training, **changes
        )
        boomerang.distill(run)
        orders.append([row for step in range(3) for row in found[step]])
    assert orders[0] == orders[1] != orders[2]


def test_phases_come_one_after_the_other(seen: Any, tmp_path: Path, stories: Path) -> None:
    """Also where the run breaks off between them; one has fewer rows than its share, one more."""
    words = (stories.parents[1] / "data/tinystories-sample/stories.txt").read_text()
    files = [tmp_path / "early.txt", tmp_path / "late.txt"]
    files[0].write_text(words[:800])
    files[1].write_text(words[2000:8000])
    sources = [{"files": [str(files[1])], "phase": 2, "weight": 3}, {"files": [str(files[0])]}]
    changes: dict[str, Any] = {
        "data": {"sources": sources, "sequence_length": 64, "held_out": 2},
        "training": {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "save_steps": 1,
            "save_total_limit": 1,
            "use_cpu": True,
        },
    }
    text = tmp_path / "unused.txt"
    straight = seen()
    one = boomerang.distill(recipe(stories, text, tmp_path / "straight", **changes))
    data = recipe(stories, text, one, **changes).data
    (early, share), (late, rest) = load_phases(data, one / "data")
    assert (share, rest) == (0.25, 0.75) and early < 8 and late > 24
    rows, _ = load_rows(data, one / "data")
    assert early + late == len(rows)
    places = {tuple(row["input_ids"].tolist()): place for place, row in enumerate(rows)}
    order = [places[row] for step in range(4) for row in straight[step]]
    first, second = order[:early], order[early:8]
    assert set(first) == set(range(early)) and len(set(second)) == len(second)
    assert set(second) < set(first) and sorted(first) != first
    assert min(order[8:]) >= early and len(set(order[8:])) == 24

    part = seen(2)
    with pytest.raises(Interrupted):
        boomerang.distill(recipe(stories, text, tmp_path / "broken", **changes))
    again = {step: found for step, found in part.items() if step < 2}
    last = seen()
    boomerang.distill(recipe(stories, text, tmp_path / "broken", **changes))
    assert again | last == straight
    weights = [path / "model.safetensors" for path in (one, tmp_path / "broken")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_phase_needs_rows(tmp_path: Path, stories: Path) -> None:
    text = tmp_path / "text.txt"
    run = recipe(stories, text, tmp_path / "out")
    short = tmp_path / "short.txt"
    short.write_text("Once upon a time")
    sources = [{"files": [str(text)]}, {"files": [str(short)], "phase": 2}]
    data = {"sources": sources, "sequence_length": 64, "held_out": 1}
    training = {"max_steps": 1, "use_cpu": True}
    run = Recipe.parse(run.model_dump() | {"data": data, "training": training})
    with pytest.raises(DataError, match=r"^data\.sources: phase 2 has no rows to train on; "):
        boomerang.distill(run)
    assert not (tmp_path / "out").exists()
