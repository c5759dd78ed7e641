"""What `test_distill_processes.py` trains: in one process by itself, in two as this script."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss
from boomerang.distill.sharding import local, shard
from boomerang.distill.trainer import DistillTrainer
from test_distill_training import rows_of
from tiny_models import tiny_pair

STEPS = 4
ROWS_PER_STEP = 4
# Rows of one token have no target; a micro-batch is one row.
ROWS = rows_of((16, 1, 9, 1, 5, 16, 1, 11, 1, 7, 1, 12, 3, 16, 16, 1))
# Three rows are not even for two processes.
HELD_OUT = rows_of((7, 16, 5))
# Of the four steps the first and the last leave the student early, the second enters it late.
SEED = 9


def trainer_in(out: Path, *, sharded: bool = False, **options: Any) -> DistillTrainer:
    """Four steps of four rows, however many processes there are."""
    name = options.pop("name", "qwen3")
    freeze = options.pop("freeze", ())
    recompute = options.pop("recompute", False)
    teacher, student, layers = tiny_pair(name)
    module = DistillModule(
        teacher,
        student,
        layers,
        Loss(ce=1, kl=1, alignment=10),
        switch=0.3,
        mirror=0.3,
        freeze=freeze,
        seed=SEED,
    )
    if recompute:
        if hasattr(student, "activation_checkpointing_enable"):
            module.activation_checkpointing_enable()
        else:  # its name in transformers 5.17
            module.gradient_checkpointing_enable()
    fields: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": STEPS,
        "optim": "adamw_torch",
        # Where a gradient is next to nothing, Adam would make its rounding errors large.
        "adam_epsilon": 1e-3,
        "learning_rate": 1e-2,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": ROWS_PER_STEP // int(os.environ.get("WORLD_SIZE", "1")),
        "per_device_eval_batch_size": 1,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "logging_steps": 1,
        "save_steps": 1,
        "ddp_find_unused_parameters": True,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    args = TrainingArguments(**(fields | options))
    if sharded:
        shard(module, args)
    return DistillTrainer(module, args, ROWS, HELD_OUT, members={1: (3,), 2: (2, 3)})


def outcome(trainer: DistillTrainer, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train, and tell what came of it."""
    targets: list[int] = []
    trainer.module.register_forward_hook(
        lambda module, args, sums: targets.append(int(sums["ce_count"]))
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    parameters = [*trainer.module.student.parameters(), *trainer.module.teacher.parameters()]
    student = trainer.module.student
    return {
        "weights": trainer.student_weights() or student.state_dict(),
        "logs": trainer.state.log_history,
        "targets": [targets] if trainer.args.world_size == 1 else gathered(targets),
        "sharded": all(isinstance(parameter, DTensor) for parameter in parameters),
        "share": sum(local(p).numel() for p in parameters) / sum(p.numel() for p in parameters),
    }


def gathered(value: object) -> list[Any]:
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)
    results = {
        "two": outcome(trainer_in(out / "two")),
        "one, then two": outcome(trainer_in(out / "again"), out / "one/checkpoint-1"),
        "sharded": outcome(trainer_in(out / "sharded", sharded=True)),
        "sharded, then again": outcome(
            trainer_in(out / "sharded-again", sharded=True), out / "sharded/checkpoint-1"
        ),
        "one, then sharded": outcome(
            trainer_in(out / "one-sharded", sharded=True), out / "one/checkpoint-1"
        ),
        "sharded, frozen": outcome(
            trainer_in(
                out / "frozen",
                sharded=True,
                name="llama",
                freeze=("embedding", "head"),
                recompute=True,
            )
        ),
    }
    if dist.get_rank() == 0:
        torch.save(results, out / "results.pt")
    sys.argv = ["boomerang", "distill", str(out / "recipe.yaml"), "--set", "shard=true"]
    runpy.run_module("boomerang", run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
