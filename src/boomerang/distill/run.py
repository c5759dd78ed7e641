"""A distillation run from its recipe to the finished student."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from transformers import TrainingArguments

from ..architecture.modules import layer_stack
from ..checkpoint.output import set_ordinary_permissions, write_text
from ..checkpoint.resolve import resolve
from ..checkpoint.student_config import read_student_config
from ..errors import OutputError, RecipeError
from ..layers import LayerMap
from ..loading import load_model, load_tokenizer
from ..student import cut
from .callbacks import JsonLines, ShowProgress
from .data import read_rows
from .module import DistillModule
from .recipe import FILE_NAME, Recipe
from .trainer import DistillTrainer, last_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

_CHECKPOINTS = "checkpoints"

# The paper's values (arXiv 2510.05064, section 4), for fields that a recipe leaves out.
_PAPER: dict[str, Any] = {
    "max_steps": 500,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.01,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
}


def distill(recipe: Recipe | str | Path) -> Path:
    """Distil a student as a recipe says.

    While it runs, the output directory holds `recipe.yaml`, `log.jsonl` and Trainer's
    `checkpoints/`; a run that was interrupted goes on from the last of them. At the end the
    student's files appear, `config.json` last. A finished output of the same recipe is left as it
    is.

    Args:
        recipe: A recipe, or the path of one.

    Returns:
        The output directory, a plain checkpoint.

    Raises:
        RecipeError: A value does not hold for these models or this machine.
        OutputError: The output holds something else.
        BoomerangError: A model or a text cannot be used; see the subclasses.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe)
    out = Path(recipe.out)
    args = training_arguments(recipe)
    if args.should_save:
        _check_out(out, recipe)
    if (out / "config.json").exists():
        return out
    progress = ShowProgress()
    trainer = prepare(recipe, args, [JsonLines(out / "log.jsonl"), progress])
    # Only now: a recipe whose models or text cannot be used must not occupy the output.
    if args.should_save:
        _claim(out, recipe)
    checkpoint = last_checkpoint(Path(recipe.out) / _CHECKPOINTS)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        progress.close()
    if args.should_save:
        _publish(trainer, out)
    trainer.accelerator.wait_for_everyone()
    return out


def prepare(
    recipe: Recipe, args: TrainingArguments, callbacks: Iterable[TrainerCallback] = ()
) -> DistillTrainer:
    """Load models and text and put the trainer together, ready for `train()`.

    Args:
        recipe: What to load.
        args: As `training_arguments` makes them.
        callbacks: For the trainer.
    """
    console = Console(stderr=True, quiet=args.process_index != 0, soft_wrap=True)
    say = partial(console.print, markup=False, highlight=False)
    teacher_directory = resolve(recipe.teacher)
    tokenizer = load_tokenizer(teacher_directory)
    # The text first: a mistake in it shows before large models are loaded.
    say(f"Reading {', '.join(recipe.data.files)}")
    rows, held_out = read_rows(recipe.data, tokenizer, eos_is_no_target=recipe.mode == "reference")
    say(f"Loading teacher {recipe.teacher} and its student")
    on_gpu = args.device.type == "cuda"
    # Mixed precision wants the teacher's weights in it; without, the student's states must fit
    # them.
    precision = torch.bfloat16 if on_gpu and args.bf16 else torch.float32
    student, layers = _student(recipe, teacher_directory)
    teacher = load_model(teacher_directory, dtype=precision)
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
    say(
        f"Distilling {layers.num_layers} layers into {layers.num_student_layers} on "
        f"{len(rows):,} rows of {recipe.data.sequence_length} tokens, into {recipe.out}"
    )
    return DistillTrainer(module, args, rows, held_out, tokenizer, callbacks)


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """What Trainer gets: the recipe's `training` over the paper's values.

    Raises:
        RecipeError: transformers does not accept a value.
    """
    given = recipe.training
    on_gpu = torch.cuda.is_available() and not given.get("use_cpu", False)
    machine = {
        "bf16": on_gpu and not given.get("fp16", False) and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": on_gpu,
        # On switch points some layers do not run, and without predictions the head does not.
        "ddp_find_unused_parameters": bool(recipe.switch or recipe.mirror)
        or not (recipe.loss.ce or recipe.loss.kl),
    }
    fields: dict[str, Any] = {**_PAPER, **machine, "logging_steps": 10, **given}
    if "num_train_epochs" in given and "max_steps" not in given:
        del fields["max_steps"]
    try:
        return TrainingArguments(
            output_dir=str(Path(recipe.out) / _CHECKPOINTS),
            seed=recipe.seed,
            disable_tqdm=True,
            **fields,
        )
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()), where="training") from None


def _student(recipe: Recipe, teacher: Path) -> tuple[PreTrainedModel, LayerMap]:
    """The student in fp32, as it is before training."""
    if recipe.student is not None:
        directory = resolve(recipe.student)
        layers, _ = read_student_config(directory)
        return load_model(directory, dtype=torch.float32), layers
    whole = load_model(teacher, dtype=torch.float32)
    layers = recipe.layers(len(layer_stack(whole)))
    # `cut` shares the teacher's tensors, and training must not change those.
    return copy.deepcopy(cut(whole, layers)), layers


def _check_out(out: Path, recipe: Recipe) -> None:
    """See that the output directory is free, or this recipe's already."""
    record = out / FILE_NAME
    if record.exists():
        changed = Recipe.load(record).differences(recipe)
        if changed:
            raise OutputError(
                f"holds the run of another recipe (it differs in {', '.join(changed)})",
                where=out,
                fix="give another `out`, or the recipe it was made by",
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "is not empty and holds no run to go on with", where=out, fix="give another `out`"
        )


def _claim(out: Path, recipe: Recipe) -> None:
    """Make the output directory this recipe's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / FILE_NAME, recipe.to_yaml())
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=out) from None


def _publish(trainer: DistillTrainer, out: Path) -> None:
    """Move the student's files into the output, `config.json` last: it marks a finished run."""
    with tempfile.TemporaryDirectory(prefix=".student-", dir=out) as scratch:
        trainer.save_student(Path(scratch))
        set_ordinary_permissions(Path(scratch))
        files = sorted(Path(scratch).iterdir(), key=lambda path: path.name == "config.json")
        for file in files:
            file.replace(out / file.name)
