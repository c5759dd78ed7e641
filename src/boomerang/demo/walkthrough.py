"""The whole path on one small teacher: cut, distil, measure every size, draw, build, speak.

Every number is computed by the run that shows it. A run that was interrupted is continued: each
stage leaves its result under the output directory and is not repeated when that is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..baselines.naive import evaluate_naive
from ..baselines.random import evaluate_random
from ..build import build
from ..checkpoint.directory import read_config
from ..checkpoint.output import write_text
from ..checkpoint.resolve import resolve
from ..checkpoint.student_config import read_student_config
from ..distill import distill
from ..distill.recipe import Recipe
from ..errors import OutputError
from ..evaluate import evaluate
from ..evaluate.results import Row
from ..hashing import content_hash
from ..layers import LAST_TO_FIRST, LayerMap
from ..models.config import num_layers
from ..models.default_order import default_order_for
from ..report.figure import save_figure
from ..report.write import write_report
from ..student import init_student
from ..text.documents import join_documents
from . import assets

PROMPT = "It was a dark evening, and the old man"
_SETTINGS_FILE = "demo.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a demo run.

    Args:
        teacher: Content hash of the teacher.
        order: The order the sizes are patched in: the paper's for the architecture.
        kept: The teacher layers that the student keeps.
        steps: Optimiser steps of distillation; the controls get as many.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row.
        heldout_characters: How much of each held-out book is measured on.
        seed: Of everything random.
    """

    teacher: str
    order: str
    kept: tuple[int, ...]
    steps: int = 240
    batch_size: int = 16
    sequence_length: int = 256
    heldout_characters: int = 60_000
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens the student is distilled on."""
        return self.steps * self.batch_size * self.sequence_length


@dataclass(frozen=True)
class Outcome:
    """What a demo run made.

    Args:
        rows: The measurements, of all series.
        figure: The picture, as PNG and SVG.
        report: The page with every figure, and the member for a budget.
        member: The directory of the built member.
        speech: The prompt and how the built member went on.
    """

    rows: list[Row]
    figure: tuple[Path, Path]
    report: Path
    member: Path
    speech: str


def run_demo(
    out: Path,
    *,
    teacher: str | None = None,
    keep: Sequence[int] | None = None,
    controls: bool = False,
    say: Say = lambda line: None,
    **settings: Any,
) -> Outcome:
    """Go the whole path and leave everything under `out`.

    Args:
        out: The output directory; one of the same settings is continued.
        teacher: A directory or hub id; by default the embedded teacher.
        keep: Teacher layers to keep; by default every second one and the last.
        controls: Also distil a student from random weights, with the same recipe and tokens.
        say: Told in a line what each stage does and where its result is.
        **settings: Fields of `Settings` that are not decided by the above.

    Raises:
        OutputError: `out` holds a run with other settings, or something else.
        LayerMapError: The teacher does not have these layers.
        BoomerangError: The teacher cannot be used.
    """
    directory = assets.teacher_path() if teacher is None else resolve(teacher)
    config = read_config(directory)
    depth = num_layers(config)
    layers = (
        LayerMap.every(2, num_layers=depth, first=1, last=2)
        if keep is None
        else LayerMap(keep, num_layers=depth)
    )
    plan = Settings(content_hash(directory), default_order_for(config), layers.kept, **settings)
    _claim(out, plan)
    training, heldout = _write_texts(out / "text", plan)

    say(
        f"1/6 Cut: a student of {layers.num_student_layers} of the teacher's {layers.num_layers} "
        f"layers (kept {', '.join(map(str, layers.kept))}) -> {out / 'student-cut'}"
    )
    _cut(directory, out / "student-cut", layers, plan)
    say(f"2/6 Distil it on {plan.tokens:,} tokens of books -> {out / 'student'}")
    student = distill(recipe(plan, directory, out / "student-cut", out / "student", training))

    measuring: dict[str, Any] = {
        "texts": heldout,
        "order": plan.order,
        "window": plan.sequence_length,
        "stride": plan.sequence_length,
        "batch_size": 2 * plan.batch_size,
    }
    results = out / "results"
    say(f"3/6 Measure all {layers.max_patch + 1} sizes on excerpts of held-out books -> {results}")
    rows = evaluate(directory, student, results, **measuring)
    say("4/6 Measure naive pruning: the same layers, not distilled")
    rows += evaluate_naive(directory, layers, results, **measuring)
    if controls:
        say(f"4b/6 Distil a student from random weights on as many tokens -> {out / 'random'}")
        _cut(directory, out / "random-cut", layers, plan, random=True)
        plain = recipe(plan, directory, out / "random-cut", out / "random", training)
        # Random weights must all be free to learn.
        control = distill(plain.model_copy(update={"freeze": []}))
        rows += evaluate_random(directory, control, results, **measuring)
    figure = save_figure(rows, out / "figure")
    report = write_report([results], out / "report.html")
    say(f"5/6 Draw size against perplexity -> {figure[0]}, {figure[1]}, {report}")

    patch = (layers.max_patch + 1) // 2
    member = out / f"member-{layers.member(patch=patch, order=plan.order).num_layers}-layers"
    say(f"6/6 Build one size as a checkpoint, load it with transformers, let it speak -> {member}")
    if not member.exists():
        build(directory, student, member, patch=patch, order=plan.order)
    return Outcome(rows, figure, report, member, PROMPT + _speak(member, plan))


def recipe(
    plan: Settings, teacher: Path, student: Path, out: Path, texts: Sequence[Path]
) -> Recipe:
    """The demo's distillation recipe; docs/experiments.md says how it was chosen."""
    return Recipe.parse(
        {
            "teacher": str(teacher),
            "student": str(student),
            "out": str(out),
            "data": {
                "files": [str(path) for path in texts],
                "sequence_length": plan.sequence_length,
            },
            "order": plan.order,
            # The preset says the rest. More mirrored batches than its own: the student gives a
            # little for a curve without a dip, which is what the demo is there to show.
            **({"mirror": 0.75} if plan.order == LAST_TO_FIRST else {}),
            "seed": plan.seed,
            "training": {
                "max_steps": plan.steps,
                "per_device_train_batch_size": plan.batch_size,
                "learning_rate": 2e-3,
                # A run this short is sooner repeated than resumed from a checkpoint in its middle.
                "save_strategy": "no",
            },
        }
    )


def _claim(out: Path, plan: Settings) -> None:
    record = out / _SETTINGS_FILE
    wanted = json.loads(json.dumps(asdict(plan)))
    if record.exists():
        found = json.loads(record.read_text())
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        if changed:
            raise OutputError(
                f"holds a demo run with another {', '.join(changed)}",
                where=out,
                fix="name another directory",
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "is not empty and holds no demo run", where=out, fix="name another directory"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps(wanted, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=out) from None


def _write_texts(directory: Path, plan: Settings) -> tuple[list[Path], list[Path]]:
    """The texts as files, as any user of the tool has them."""
    directory.mkdir(exist_ok=True)
    training, heldout = directory / "train.txt", directory / "held-out-books.txt"
    write_text(training, join_documents(assets.training_documents()))
    excerpts = (text[: plan.heldout_characters] for text in assets.heldout_documents())
    write_text(heldout, join_documents(excerpts))
    return [training], [heldout]


def _cut(
    teacher: Path, out: Path, layers: LayerMap, plan: Settings, *, random: bool = False
) -> None:
    if not out.exists():
        init_student(teacher, out, layers, random=random, seed=plan.seed)
    assert read_student_config(out)[0] == layers


def _speak(member: Path, plan: Settings) -> str:
    import torch

    from ..checkpoint.loading import continuation, load_model, load_tokenizer

    torch.manual_seed(plan.seed)
    return continuation(load_model(member), load_tokenizer(member), PROMPT, max_new_tokens=80)
