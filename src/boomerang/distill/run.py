"""A distillation run from its recipe to the finished student."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from transformers import TrainingArguments

from ..architecture.modules import layer_stack
from ..checkpoint.student_config import read_student_config
from ..errors import BoomerangError, RecipeError
from ..layers import LayerMap
from ..loading import load_model, load_tokenizer
from ..student import cut
from .callbacks import JsonLines, ShowProgress
from .data import read_rows
from .inputs import Inputs
from .module import DistillModule
from .output import LOG, Output
from .packing import check_packing
from .recipe import Recipe
from .trainer import DistillTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback

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

    While it runs, the output directory holds `recipe.yaml`, `inputs.json` (hashes of models and
    text), `log.jsonl` and Trainer's `checkpoints/`; a run that was interrupted goes on from the
    last of them. At the end the student's files appear, `config.json` last, and the checkpoints go,
    unless the recipe asks for them. A finished output of the same recipe and inputs is left as it
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
    out = Output(recipe)
    args = training_arguments(recipe)
    if args.should_save:
        out.check_recipe()
    inputs = Inputs.find(recipe)
    hashes = inputs.hashes() if args.should_save else {}
    if args.should_save:
        out.check_inputs(hashes)
    if not out.finished:
        _train(recipe, args, inputs, out, hashes)
    if args.should_save:
        out.discard_checkpoints()
    return out.path


def _train(
    recipe: Recipe, args: TrainingArguments, inputs: Inputs, out: Output, hashes: dict[str, str]
) -> None:
    progress = ShowProgress()
    try:
        trainer = prepare(recipe, args, inputs, [JsonLines(out.path / LOG), progress])
    finally:
        if args.should_save:
            out.remove_if_empty()
    # Only now: a recipe that cannot be used must not leave an output.
    if args.should_save:
        out.claim(hashes)
    checkpoint = out.last_checkpoint()
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        progress.close()
    if args.should_save:
        out.publish(trainer.save_student)
    trainer.accelerator.wait_for_everyone()


def prepare(
    recipe: Recipe,
    args: TrainingArguments,
    inputs: Inputs,
    callbacks: Iterable[TrainerCallback] = (),
) -> DistillTrainer:
    """Load models and text and put the trainer together, ready for `train()`.

    Args:
        recipe: What to do.
        args: As `training_arguments` makes them.
        inputs: What to load.
        callbacks: For the trainer.

    Raises:
        RecipeError: Trainer does not accept a value, or the teacher no packed rows.
        BoomerangError: A model or a text cannot be used.
    """
    console = Console(stderr=True, quiet=args.process_index != 0, soft_wrap=True)
    say = partial(console.print, markup=False, highlight=False)
    tokenizer = load_tokenizer(inputs.teacher, **recipe.model.for_tokenizer())
    # The text first: a mistake in it shows before large models are loaded.
    say(f"Reading {', '.join(recipe.data.files)}")
    rows, held_out = read_rows(recipe.data, tokenizer, eos_is_no_target=recipe.mode == "reference")
    say(f"Loading teacher {recipe.teacher} and its student")
    # Mixed precision wants the teacher's weights in it; without, the student's states must fit
    # them.
    precision = torch.bfloat16 if args.device.type == "cuda" and args.bf16 else torch.float32
    teacher = load_model(
        inputs.teacher, dtype=precision, device=args.device, **recipe.model.for_model()
    )
    if rows.packs_documents:
        check_packing(teacher, rows, args.train_batch_size)
    student, layers = _student(recipe, inputs, teacher)
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
    with _refused_as_recipe():
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
    # Checkpoints to go on from: often enough for a run of any length, and no more than needed.
    saving = {"save_steps": 0.1} | ({} if recipe.keeps_checkpoints else {"save_total_limit": 1})
    fields: dict[str, Any] = {**_PAPER, **machine, **saving, "logging_steps": 10, **given}
    if "num_train_epochs" in given and "max_steps" not in given:
        del fields["max_steps"]
    with _refused_as_recipe():
        return TrainingArguments(
            output_dir=str(Output(recipe).checkpoints),
            seed=recipe.seed,
            disable_tqdm=True,
            **fields,
        )


@contextmanager
def _refused_as_recipe() -> Iterator[None]:
    """What transformers refuses when it is set up, as a mistake in the recipe's `training`."""
    try:
        yield
    except (BoomerangError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()), where="training") from error


def _student(
    recipe: Recipe, inputs: Inputs, teacher: PreTrainedModel
) -> tuple[PreTrainedModel, LayerMap]:
    """The student in fp32, as it is before training."""
    options = {"dtype": torch.float32, **recipe.model.for_model()}
    if inputs.student is not None:
        layers, _ = read_student_config(inputs.student)
        return load_model(inputs.student, **options), layers
    layers = recipe.layers(len(layer_stack(teacher)))
    if teacher.dtype == torch.float32:
        # `cut` shares the teacher's tensors, and training must not change those.
        return copy.deepcopy(cut(teacher, layers)), layers
    # The teacher was rounded, its checkpoint need not be; and some constants depend on the dtype.
    return cut(load_model(inputs.teacher, **options), layers), layers
