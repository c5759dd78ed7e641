"""The whole path on one teacher: cut, distil, measure every size, draw, build, speak.

Every number is computed by the run that shows it. A run that was interrupted is continued: each
stage leaves its result under the output directory and is not repeated when that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..baselines import naive, random
from ..baselines.bench import Bench
from ..build import build
from ..checkpoint.lock import locked
from ..checkpoint.output import check_apart
from ..checkpoint.resolve import resolve
from ..checkpoint.sources import Source, Sources
from ..checkpoint.student_config import read_student_config
from ..distill import distill
from ..evaluate import evaluate_sources
from ..evaluate.results import Row
from ..layers import LayerMap
from ..models.config import num_layers, paper_order
from ..report.charts import one_chart
from ..report.figure import save_figure
from ..report.write import write_report
from ..student import init_student
from . import assets
from .estimate import estimate
from .settings import TEACHER, Settings, Texts, check_output, claim, real_settings, recipe
from .teachers import real_teacher

__all__ = ["Outcome", "Settings", "recipe", "run_demo"]

STORY = "It was a dark evening, and the old man"
QUESTION = "What is the capital of France?"
# Of English text; only the estimate of the time needs it.
_CHARACTERS_PER_TOKEN = 4

Say = Callable[[str], None]


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
    real: bool = False,
    teacher: str | None = None,
    keep: Sequence[int] | None = None,
    data: Sequence[str | Path] = (),
    tokens: int | None = None,
    controls: bool = False,
    say: Say = lambda line: None,
    **settings: Any,
) -> Outcome:
    """Go the whole path and leave everything under `out`.

    Args:
        out: The output directory; one of the same settings is continued.
        real: Use SmolLM2-135M-Instruct as the teacher, and settings for a model of its size.
        teacher: A directory or hub id; by default SmolLM2 or the embedded teacher.
        keep: Teacher layers to keep; by default every second one and the last.
        data: Text files to distil on, whose end is measured on; by default the embedded books.
        tokens: How many to distil on, rounded to whole steps.
        controls: Also distil a student from random weights, with the same recipe and tokens.
        say: Called with a line about what each stage does and where its result is.
        **settings: Fields of `Settings` that are not decided by the above.

    Raises:
        OutputError: `out` holds a run with other settings, the teacher or something else, or
            another process writes into it.
        LayerMapError: The teacher does not have these layers.
        DataError: The text cannot be read, or is too short.
        BoomerangError: The teacher cannot be used.
    """
    if teacher is not None:
        check_apart(out, teacher)
    check_output(out)
    directory = _teacher(out, teacher, real, say)
    source = Source.open(directory)
    depth = num_layers(source.config)
    layers = (
        LayerMap.every(2, num_layers=depth, first=1, last=2)
        if keep is None
        else LayerMap(keep, num_layers=depth)
    )
    fields = {"order": paper_order(source.config), **(real_settings() if real else {}), **settings}
    plan = Settings(source.content_hash, kept=layers.kept, **fields)
    texts = Texts.of(data, plan.heldout_characters)
    plan = plan.with_text(texts.name, tokens)
    with locked(out):
        claim(out, plan)
        return _walk(source, out, layers, plan, texts, controls, say)


def _walk(
    teacher: Source,
    out: Path,
    layers: LayerMap,
    plan: Settings,
    texts: Texts,
    controls: bool,
    say: Say,
) -> Outcome:
    directory = teacher.directory
    training, heldout = texts.write(out / "text", plan.heldout_characters)
    characters = len(heldout.read_text(encoding="utf-8"))
    if not (out / "student" / "config.json").exists():
        say(str(estimate(directory, layers, plan, training, characters // _CHARACTERS_PER_TOKEN)))

    say(
        f"1/6 Cut: a student of {layers.num_student_layers} of the teacher's {layers.num_layers} "
        f"layers (kept {', '.join(map(str, layers.kept))}) -> {out / 'student-cut'}"
    )
    _cut(teacher, out / "student-cut", layers, plan)
    say(f"2/6 Distil it on {plan.tokens:,} tokens of {plan.text_name} -> {out / 'student'}")
    student = distill(recipe(plan, directory, out / "student-cut", out / "student", training))

    measuring: dict[str, Any] = {
        "texts": [heldout],
        "order": plan.order,
        "window": plan.sequence_length,
        "stride": plan.sequence_length,
        "batch_size": 2 * plan.batch_size,
    }
    results = out / "results"
    say(
        f"3/6 Measure all {layers.max_patch + 1} sizes on {characters:,} characters of held-out "
        f"{plan.text_name} -> {results}"
    )
    sources = Sources.pair(teacher, Source.open(student))
    rows = evaluate_sources(sources, results, **measuring)
    say("4/6 Measure naive pruning: the same layers, not distilled")
    rows += naive.run(Bench(sources, {}), results, **measuring)
    if controls:
        say(f"4b/6 Distil a student from random weights on as many tokens -> {out / 'random'}")
        _cut(teacher, out / "random-cut", layers, plan, random=True)
        plain = recipe(plan, directory, out / "random-cut", out / "random", training)
        # Random weights must all be free to learn.
        control = Source.open(distill(plain.model_copy(update={"freeze": []})))
        rows += random.run(Bench(Sources.pair(teacher, control), {}), results, **measuring)
    figure = save_figure(one_chart(rows), out / "figure")
    report = write_report([results], out / "report.html")
    say(f"5/6 Draw size against perplexity -> {figure[0]}, {figure[1]}, {report}")

    patch = (layers.max_patch + 1) // 2
    member = out / f"member-{layers.member(patch=patch, order=plan.order).num_layers}-layers"
    say(f"6/6 Build one size as a checkpoint, load it with transformers, let it speak -> {member}")
    if not member.exists():
        build(directory, student, member, patch=patch, order=plan.order)
    return Outcome(rows, figure, report, member, _speak(member, plan))


def _teacher(out: Path, teacher: str | None, real: bool, say: Say) -> Path:
    if teacher is not None:
        return resolve(teacher)
    if not real:
        return assets.teacher_path()
    directory, line = real_teacher(out / TEACHER)
    say(line)
    return directory


def _cut(
    teacher: Source, out: Path, layers: LayerMap, plan: Settings, *, random: bool = False
) -> None:
    if not out.exists():
        init_student(teacher, out, layers, random=random, seed=plan.seed)
    assert read_student_config(out)[0] == layers


def _speak(member: Path, plan: Settings) -> str:
    """A question and the member's answer where it has a chat template, else a story it goes on."""
    import torch

    from ..checkpoint.loading import continuation, load_model, load_tokenizer

    torch.manual_seed(plan.seed)
    model, tokenizer = load_model(member), load_tokenizer(member)
    if tokenizer.chat_template is None:
        return STORY + continuation(model, tokenizer, STORY, max_new_tokens=80)
    answer = continuation(model, tokenizer, QUESTION, max_new_tokens=80, chat=True)
    return f"{QUESTION} {answer}"
