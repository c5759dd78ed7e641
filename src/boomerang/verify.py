"""Whether a built member is the model its plan says, when it is loaded as a user would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .checkpoint.record import Record, read_record
from .family import Family
from .layers import LayerMap
from .loading import load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Enough to leave a sliding window behind in tests and to cost little on a large model.
_PROMPT_TOKENS = 48
_GREEDY_TOKENS = 16


@dataclass(frozen=True)
class Verification:
    """What a comparison found.

    Args:
        tensors: How many tensors were compared bit by bit.
        tokens: How many greedy tokens were compared.
        largest: The largest difference of a logit.
        difference: The first thing that differs, in words; None when nothing does.
    """

    tensors: int
    tokens: int
    largest: float
    difference: str | None

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return self.difference is None


def verify(
    directory: str | Path,
    *,
    teacher: str | Path | None = None,
    student: str | Path | None = None,
    **model_kwargs: Any,
) -> Verification:
    """Compare a built member with the same member in memory.

    Loads it with plain transformers and compares tensors (bitwise), logits on fixed tokens and
    greedily generated tokens with those of `Family.model`.

    Args:
        directory: A directory written by `boomerang.build`.
        teacher: Where the teacher is now; by default where it was.
        student: Where the student is now; by default where it was.
        **model_kwargs: For `from_pretrained`, such as `device` or `attn_implementation`.

    Raises:
        CheckpointError: There is no record of how it was built, or a model cannot be loaded.
        LayerMapError: Teacher and student are not the ones of the record.
    """
    directory = Path(directory)
    record = read_record(directory)
    built = load_model(directory, **model_kwargs)
    family = Family.from_pretrained(
        record.teacher if teacher is None else teacher,
        record.student if student is None else student,
        dtype=built.dtype,
        **model_kwargs,
    )
    return compare(built, family, record)


def compare(built: PreTrainedModel, family: Family, record: Record) -> Verification:
    """`verify`, for models that are loaded already."""
    layers = LayerMap(record.kept, record.num_teacher_layers)
    expected = family.model(layers.member(blocks=record.patched))
    tensors, difference = _compare_tensors(built, expected)
    ids = _prompt(built)
    ours, theirs = (_logits(model, ids) for model in (built, expected))
    largest = (ours - theirs).abs().max().item()
    if difference is None and not ours.isfinite().all():
        difference = "its logits are not finite (NaN or infinite)"
    if difference is None and largest > 0:
        difference = f"logits differ by up to {largest:g}"
    tokens = 0
    if difference is None:
        ours, theirs = (_greedy(model, ids) for model in (built, expected))
        tokens = ours.shape[-1]
        if not torch.equal(ours, theirs):
            difference = "greedily generated tokens differ"
    return Verification(tensors, tokens, largest, difference)


def _compare_tensors(built: PreTrainedModel, expected: PreTrainedModel) -> tuple[int, str | None]:
    ours, theirs = built.state_dict(), expected.state_dict()
    for name, tensor in theirs.items():
        if name not in ours:
            return 0, f"tensor {name} is missing"
        if not _same_bits(ours[name], tensor):
            return 0, f"tensor {name} differs"
    extra = ours.keys() - theirs.keys()
    return len(ours), f"tensor {min(extra)} is one too many" if extra else None


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are one bit pattern, in which a NaN equals itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # A number without dimensions has no last one to cut into bytes.
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _prompt(model: PreTrainedModel) -> torch.Tensor:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", _PROMPT_TOKENS + _GREEDY_TOKENS)
    length = max(1, min(_PROMPT_TOKENS, longest - _GREEDY_TOKENS))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, length), generator=generator)
    return ids.to(model.device)


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits.float()


def _greedy(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    generate: Any = model.generate
    output: torch.Tensor = generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=_GREEDY_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0, ids.shape[1] :]
