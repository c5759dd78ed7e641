"""The fields of `TrainingArguments` that a recipe may set, and words for those it may not."""

from __future__ import annotations

from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .mistakes import complaint, hint

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
    "neftune_noise_alpha": "the student must see the same embeddings as its teacher",
}
_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
)


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
        if key in _AT_LEAST_ONE and value < 1:
            raise ValueError(f"{key} is {value} and must be at least 1")
