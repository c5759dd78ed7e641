"""The fields of `TrainingArguments` that a recipe may set, and words for those it may not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Fields of TrainingArguments that mean something else here or nothing at all.
_NOT_HERE = {
    "output_dir": "give the output as `out`",
    "seed": "give the seed as `seed`",
    "resume_from_checkpoint": "an interrupted run is continued by itself",
    "label_smoothing_factor": "the loss is given under `loss`",
    "use_liger_kernel": "the losses here need the student's logits",
    "disable_tqdm": "progress has its own display",
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


def hint(key: str, allowed: Iterable[str]) -> str:
    """The allowed key that was probably meant, as the end of a sentence; may be empty."""
    near = difflib.get_close_matches(key, list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def complaint(error: ErrorDetails) -> str:
    """What pydantic says about a value, with the value."""
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{message}, not {error['input']!r}"
