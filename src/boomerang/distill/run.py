"""A distillation run from its recipe to the finished student."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from rich.console import Console
from transformers import TrainingArguments, get_scheduler

from ..checkpoint.loading import check_tokens
from ..checkpoint.lock import locked
from ..checkpoint.sources import Source, Sources
from ..errors import OutputError, RecipeError
from ..settings import hint
from ..student import cut
from ..text.prepare import largest_token, load_phases, load_rows, prepare_rows, rows_hash
from ..text.rows import Rows
from .callbacks import JsonLines, ShowProgress
from .checkpoints import checkpoint_to_resume, last_checkpoint
from .inputs import Inputs
from .module import DistillModule
from .packing import check_packing
from .preflight import Preflight
from .recipe import Recipe
from .run_directory import LOG, Output
from .sharding import check_possible, refuse_other_sharding, shard
from .signals import StopOnSignal
from .trainer import DistillTrainer
from .training_fields import refused_as_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..layers import Order

# Checkpoints and evaluations, where the recipe does not plan them: every tenth of the run.
_OFTEN = 0.1


def distill(recipe: Recipe | str | Path) -> Path:
    """Distil a student as a recipe, or the file of one, says.

    While it runs, the output directory holds `recipe.yaml`, `inputs.json` (hashes of models and
    text), `log.jsonl` and Trainer's `checkpoints/`. An interrupted run goes on from the last
    checkpoint. At the end the student's files appear, `config.json` last, and the checkpoints go,
    unless the recipe asks for them. A finished output of the same recipe and inputs is left alone.

    Returns:
        The output directory, a plain checkpoint.

    Raises:
        RecipeError: A value does not hold for these models or this machine.
        OutputError: The output holds something else or a model that is read, another process writes
            into it, or the disk is full.
        TrainingError: A loss or gradient is not finite.
        SystemExit: A signal stopped the run; the code is 128 plus its number.
        BoomerangError: A model or a text cannot be used; see the subclasses.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    order = recipe.order
    # The configs alone: a mistake shows before weights are downloaded.
    recipe = recipe.resolved(Source.open(recipe.teacher, weights=False).config)
    out = Output(recipe)
    args = training_arguments(recipe)
    with locked(out.path, when=args.should_save):
        if args.should_save:
            out.check_recipe()
        inputs = Inputs.find(recipe)
        hashes = inputs.hashes() if args.should_save else {}
        if args.should_save:
            out.check_inputs(hashes, args)
        if not out.finished:
            _train(recipe, args, inputs, out, hashes, order)
        if args.should_save:
            out.discard_checkpoints()
    return out.path


def _train(
    recipe: Recipe,
    args: TrainingArguments,
    inputs: Inputs,
    out: Output,
    hashes: dict[str, str],
    order: Order | None,
) -> None:
    claimed_now = args.should_save and not out.claimed
    if args.should_save:
        out.claim(hashes, args)
    progress = ShowProgress()
    try:
        trainer = prepare(recipe, args, inputs, order)
        checkpoint = _checkpoint(out, args)
        if checkpoint is None or not trainer.load_finished(checkpoint):
            _run(trainer, recipe, progress, checkpoint)
    except BaseException:
        # A recipe that cannot be used must not leave an output.
        if claimed_now and not progress.begun:
            out.release()
        raise
    weights = trainer.student_weights()
    if args.should_save:
        out.publish(partial(trainer.save_student, weights=weights))
    trainer.accelerator.wait_for_everyone()


def _checkpoint(out: Output, args: TrainingArguments) -> Path | None:
    """The checkpoint to go on from, the same in all processes."""
    problem = None
    if args.should_save:
        try:
            checkpoint_to_resume(out.checkpoints, partial(_say, args))
        except OutputError as error:
            problem = error
    # Waits until damaged ones are gone.
    problem = next(filter(None, gather_object([problem])), None)
    if problem is not None:
        raise problem
    return last_checkpoint(out.checkpoints)


def _run(
    trainer: DistillTrainer, recipe: Recipe, progress: ShowProgress, checkpoint: Path | None
) -> None:
    args, stop = trainer.args, StopOnSignal()
    length = recipe.data.sequence_length
    progress.preflight = partial(Preflight.of, trainer.module, args, length)
    for callback in (JsonLines(Output(recipe).path / LOG), progress, stop):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Exception:
        # Before the first step Trainer makes what the recipe asks for: optimizer, schedule, loader.
        with nullcontext() if progress.begun else refused_as_recipe():
            raise
    finally:
        progress.close()
        stop.restore()
    if stop.signal is not None:
        state = trainer.state
        _say(
            args,
            f"Stopped by {stop.signal.name} after step {state.global_step} of {state.max_steps}. "
            "Run the same again to go on.",
        )
        trainer.accelerator.wait_for_everyone()
        raise SystemExit(128 + stop.signal)


def prepare(
    recipe: Recipe,
    args: TrainingArguments,
    inputs: Inputs,
    order: Order | None = None,
) -> DistillTrainer:
    """Load models and text and put the trainer together, ready for `train()`.

    Args:
        recipe: What to do; `resolved`.
        args: As `training_arguments` makes them.
        inputs: What to load.
        order: The order to record with the student, where the recipe gave one.

    Raises:
        RecipeError: Trainer does not accept a value, or the teacher does not accept packed rows.
        BoomerangError: A model or a text cannot be used.
    """
    assert recipe.switch is not None and recipe.mirror is not None
    source = inputs.sources.teacher
    tokenizer = source.tokenizer
    _say(args, f"Loading teacher {recipe.teacher} and its student")
    # Mixed precision wants the teacher's weights in bf16. Without it, its states must fit the
    # student's.
    precision = torch.bfloat16 if args.device.type == "cuda" and args.bf16 else torch.float32
    teacher = source.model(
        dtype=precision,
        # What is to be sharded need not fit a device.
        device=None if recipe.shard else args.device,
        **recipe.model.for_model(),
    )
    student, layers = _student(recipe, inputs.sources, teacher), inputs.sources.layers
    module = DistillModule(
        teacher,
        student,
        layers,
        recipe.loss,
        switch=recipe.switch,
        mirror=recipe.mirror,
        freeze=recipe.freeze,
        mode=recipe.mode,
        seed=recipe.seed,
    )
    if recipe.shard:
        shard(module, args)
    if recipe.data.packing:
        check_packing(teacher, args.train_batch_size)
    rows, held_out = _rows(recipe, args, inputs, tokenizer)
    data = Output(recipe).data
    check_tokens(teacher, largest_token(data))
    _say(
        args,
        f"Distilling {layers.num_layers} layers into {layers.num_student_layers} on "
        f"{len(rows):,} rows of {recipe.data.sequence_length} tokens, into {recipe.out}",
    )
    members, phases = recipe.members(layers), load_phases(recipe.data, data)
    with refused_as_recipe():
        trainer = DistillTrainer(module, args, rows, held_out, members=members, phases=phases)
        batches = len(trainer.get_train_dataloader())
        _try_schedule(args)
    if not batches:
        raise RecipeError(
            f"the rows do not fill a batch of {args.train_batch_size} in every process",
            where="training",
            fix="give more text, or set per_device_train_batch_size lower",
        )
    # Trainer would look it up after the first evaluation.
    metric, names = args.metric_for_best_model, trainer.metric_names
    if metric is not None and metric.removeprefix("eval_") not in names:
        near = hint(metric.removeprefix("eval_"), names) or f"; there are {', '.join(names)}"
        raise RecipeError(
            f"metric_for_best_model is {metric!r}, not measured{near}", where="training"
        )
    trainer.source, trainer.order = source.directory, order
    return trainer


def _rows(
    recipe: Recipe, args: TrainingArguments, inputs: Inputs, tokenizer: PreTrainedTokenizerBase
) -> tuple[Rows, Rows | None]:
    """The rows to train on and those to evaluate on: made by one process, mapped by all."""
    data, directory, reference = recipe.data, Output(recipe).data, recipe.mode == "reference"
    with args.main_process_first(local=args.save_on_each_node, desc="preparing the text"):
        if args.should_save:
            content = rows_hash(data, inputs.text_hash, inputs.tokenizer_hash, reference=reference)
            say = partial(_say, args)
            prepare_rows(data, tokenizer, directory, content, reference=reference, say=say)
    return load_rows(data, directory)


def _try_schedule(args: TrainingArguments) -> None:
    """Ask for learning rates of the whole run: a bad value may only be used after the warm-up."""
    steps = max(args.max_steps, 100)
    options: Any = args.lr_scheduler_kwargs
    schedule = get_scheduler(
        args.lr_scheduler_type,
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0),
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=options,
    )
    for rate in getattr(schedule, "lr_lambdas", ()):
        for step in (0, steps // 2, steps - 1):
            rate(step)


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The arguments of Trainer: the recipe's `training` over what suits the machine and the run.

    Args:
        recipe: The recipe; `resolved`.

    Raises:
        RecipeError: transformers does not accept a value, or the processes cannot be used so.
    """
    refuse_other_sharding()
    given = recipe.training
    on_gpu = torch.cuda.is_available() and not given.get("use_cpu", False)
    fields: dict[str, Any] = {
        # Trainer refuses bf16 on a CPU that is not asked for by name.
        "use_cpu": not torch.accelerator.is_available(),
        "bf16": on_gpu and not given.get("fp16", False) and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": on_gpu,
        # On switch points some layers do not run, and without predictions the head does not.
        "ddp_find_unused_parameters": bool(recipe.switch or recipe.mirror)
        or not (recipe.loss.ce or recipe.loss.kl),
        # Checkpoints to go on from: often enough for a run of any length.
        "save_steps": _OFTEN,
        # Every step is looked at before it is applied.
        "logging_nan_inf_filter": False,
        "logging_steps": 10,
    }
    if not recipe.keeps_checkpoints:
        fields["save_total_limit"] = 1
    if recipe.data.held_out:
        fields |= {"eval_strategy": "steps", "eval_steps": _OFTEN}
    with refused_as_recipe():
        args = TrainingArguments(
            output_dir=str(Output(recipe).checkpoints),
            seed=recipe.seed,
            disable_tqdm=True,
            **(fields | given),
        )
    if args.fp16 and args.device.type == "cpu":
        raise RecipeError("is not for CPUs", where="training.fp16", fix="set training.bf16")
    if recipe.shard:
        check_possible(args)
    return args


def _say(args: TrainingArguments, line: str) -> None:
    console = Console(stderr=True, quiet=args.process_index != 0, soft_wrap=True)
    console.print(line, markup=False, highlight=False)


def _student(recipe: Recipe, sources: Sources, teacher: PreTrainedModel) -> PreTrainedModel:
    """The student in fp32, as it is before training."""
    options = {"dtype": torch.float32, **recipe.model.for_model()}
    if sources.student is not None:
        return sources.student.model(**options)
    if teacher.dtype == torch.float32:
        # `cut` shares the teacher's tensors, and training must not change those.
        return copy.deepcopy(cut(teacher, sources.layers))
    # The teacher was rounded, its checkpoint need not be; and some constants depend on the dtype.
    return cut(sources.teacher.model(**options), sources.layers)
