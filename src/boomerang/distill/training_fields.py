"""The fields of `TrainingArguments` that a recipe may set, and what is wrong with their values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ..errors import BoomerangError, RecipeError
from ..settings import complaint, hint

_SHARDING = "set `shard: true`, which shards both models over the processes"

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
_COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)
_INTERVALS = ("save_steps", "eval_steps", "logging_steps")


def check_training(training: dict[str, Any]) -> None:
    """Refuse what is no field, or no value of its type, before transformers would.

    Raises:
        ValueError: Names the field.
    """
    if not training:
        return
    # Importing transformers costs seconds.
    from transformers import TrainingArguments

    types = get_type_hints(TrainingArguments)
    allowed = TrainingArguments.__dataclass_fields__.keys() - _NOT_HERE.keys()
    for key, value in training.items():
        if key in _NOT_HERE:
            raise ValueError(f"{key} is not set here: {_NOT_HERE[key]}")
        if key not in allowed:
            raise ValueError(f"{key} is no field of TrainingArguments{hint(key, allowed)}")
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"{key}: {complaint(error.errors()[0])}") from None
        if value is None:
            continue
        if key in _COUNTS and value < 1:
            raise ValueError(f"{key} is {value} and must be at least 1")
        if key in _INTERVALS and value <= 0:
            raise ValueError(f"{key} is {value} and must be more than 0")
        # Trainer takes every other number as "by epochs".
        if key == "max_steps" and value < 1 and value != -1:
            raise ValueError(f"{key} is {value} and must be at least 1, or -1")
        if key == "accelerator_config" and isinstance(value, dict) and value.get("split_batches"):
            raise ValueError(f"{key} must not split batches: a batch is that of one process")


@contextmanager
def refused_as_recipe() -> Iterator[None]:
    """Turn what transformers and torch refuse into a mistake in the recipe's `training`."""
    from torch import OutOfMemoryError

    try:
        yield
    except (BoomerangError, OutOfMemoryError):
        raise
    except KeyError as error:
        raise RecipeError(f"{error} is missing or unknown", where="training") from error
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise RecipeError(" ".join(str(error).split()), where="training") from error
