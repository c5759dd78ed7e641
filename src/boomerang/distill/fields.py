"""The fields of `TrainingArguments` that a recipe may set, and words for those it may not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..settings import complaint, hint

_SHARDING = "it knows no teacher; `shard: true` divides both models over the processes"

# Fields of TrainingArguments that mean something else here or nothing at all.
_NOT_HERE = {
    "output_dir": "give the output as `out`",
    "seed": "give the seed as `seed`",
    "resume_from_checkpoint": "an interrupted run is continued by itself",
    "label_smoothing_factor": "the loss is given under `loss`",
    "use_liger_kernel": "its losses know no teacher; those here hold no full logits either",
    "disable_tqdm": "progress has its own display",
    "enable_jit_checkpoint": "SIGTERM and SIGINT always make a checkpoint",
    "push_to_hub": "upload the student when it is finished, with `hf upload`",
    "save_only_model": "an interrupted run could not go on from the weights alone",
    "fsdp": _SHARDING,
    "fsdp_config": _SHARDING,
    "deepspeed": _SHARDING,
    "parallelism_config": _SHARDING,
    "auto_find_batch_size": "how many rows a step has is part of the recipe",
    "neftune_noise_alpha": "the student must see the same embeddings as its teacher",
}
_COUNTS = dict.fromkeys(
    (
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
    ),
    (lambda value: value >= 1, "must be at least 1"),
)
_INTERVALS = dict.fromkeys(
    ("save_steps", "eval_steps", "logging_steps"),
    (lambda value: value > 0, "must be more than 0"),
)
_SIZES = dict.fromkeys(
    ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "dataloader_num_workers"),
    (lambda value: 0 <= value < math.inf, "must be a number from 0 on"),
)
_DECAYS = dict.fromkeys(
    ("adam_beta1", "adam_beta2"), (lambda value: 0 <= value < 1, "must be from 0 to below 1")
)
# What transformers finds out late, with a traceback, or not at all.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **_COUNTS,
    **_INTERVALS,
    **_SIZES,
    **_DECAYS,
    "accelerator_config": (
        lambda value: not (isinstance(value, dict) and value.get("split_batches")),
        "must not split batches: a batch is that of one process",
    ),
    # It takes every other number as "by epochs".
    "max_steps": (lambda value: value >= 1 or value == -1, "must be at least 1, or -1"),
}


def check_training(training: dict[str, Any]) -> None:
    """Refuse what is no field, or no value of its type.

    Raises:
        ValueError: Names the field.
    """
    # Importing transformers costs seconds, and a recipe without the key does not need it.
    from transformers import TrainingArguments

    hints = get_type_hints(TrainingArguments)
    allowed = TrainingArguments.__dataclass_fields__.keys() - _NOT_HERE.keys()
    for key, value in training.items():
        if key in _NOT_HERE:
            raise ValueError(f"{key} is not set here: {_NOT_HERE[key]}")
        if key not in allowed:
            raise ValueError(f"{key} is no field of TrainingArguments{hint(key, allowed)}")
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"{key}: {complaint(error.errors()[0])}") from None
        in_range, words = _RANGES.get(key, (None, ""))
        if in_range is not None and value is not None and not in_range(value):
            raise ValueError(f"{key} is {value} and {words}")
