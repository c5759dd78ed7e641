"""Compares a built member, loaded as a user would load it, with the same member in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .checkpoint.loading import generate, load_model
from .checkpoint.record import Record, read_record
from .checkpoint.sources import Sources
from .errors import CheckpointError
from .family import Family
from .layers import LayerMap
from .models.parts import max_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Enough to leave a sliding window behind in tests and to cost little on a large model.
_PROMPT_TOKENS = 48
_GREEDY_TOKENS = 16

# Results that follow from one another in a layer and are each rounded, along its longest path: two
# norms, queries and keys, their products, softmax, values, output, two matrices of the feed-forward
# part with what is between them, two sums.
_STEPS_PER_LAYER = 12


@dataclass(frozen=True)
class Verification:
    """What a comparison found.

    Args:
        tensors: How many tensors were compared bit by bit.
        tokens: How many greedy tokens were compared.
        largest: The largest difference of a logit.
        allowed: The largest difference that rounding explains: `rounding_bound`.
        difference: The first thing that differs, in words; None when nothing does.
    """

    tensors: int
    tokens: int
    largest: float
    allowed: float
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

    Loads it with plain transformers and compares tensors (bitwise), logits on fixed tokens (up to
    `rounding_bound`: kernels may add up in another order where the same numbers lie elsewhere in
    memory) and greedily generated tokens (up to the first tie within that bound) with those of
    `Family.model`.

    Args:
        directory: A directory written by `boomerang.build`.
        teacher: Where the teacher is now; by default where it was.
        student: Where the student is now; by default where it was.
        **model_kwargs: For `from_pretrained`, such as `device` or `attn_implementation`.

    Raises:
        CheckpointError: There is no record of how it was built, teacher or student has changed
            since, or a model cannot be loaded.
        LayerMapError: Teacher and student are not the ones of the record.
    """
    directory = Path(directory)
    record = read_record(directory)
    sources = Sources.open(
        record.teacher if teacher is None else teacher,
        record.student if student is None else student,
        keep=record.kept,
        trust_remote_code=bool(model_kwargs.get("trust_remote_code", False)),
    )
    _check_unchanged(record, sources)
    built = load_model(directory, **model_kwargs)
    family = Family.load(sources, **model_kwargs | {"dtype": built.dtype})
    return compare(built, family, record)


def _check_unchanged(record: Record, sources: Sources) -> None:
    for role, source, recorded in zip(
        ("teacher", "student"), sources.identities, record.fingerprints, strict=True
    ):
        if source.fingerprint != recorded:
            raise CheckpointError(
                f"has changed since the member was built: it is not the {role} of its record",
                where=source.id,
                fix=f"build the member again, or give the {role} it was built from as --{role}",
            )


def compare(built: PreTrainedModel, family: Family, record: Record) -> Verification:
    """`verify`, for models that are loaded already."""
    layers = LayerMap(record.kept, record.num_teacher_layers)
    member = layers.member(blocks=record.patched)
    expected = family.model(member)
    tensors, difference = _compare_tensors(built, expected)
    ids = _prompt(built)
    ours, theirs = (_logits(model, ids) for model in (built, expected))
    largest = (ours.float() - theirs.float()).abs().max().item()
    allowed = rounding_bound(built, member.num_layers, theirs)
    if difference is None and not ours.isfinite().all():
        difference = "its logits are not finite (NaN or infinite)"
    # Written this way round, because NaN would pass `largest > allowed`.
    if difference is None and not largest <= allowed:
        difference = f"logits differ by up to {largest:g}, by rounding at most {allowed:g}"
    tokens = 0
    if difference is None:
        tokens, agree = _compare_greedy(built, expected, ids, allowed)
        if not agree:
            difference = "greedily generated tokens differ"
    return Verification(tensors, tokens, largest, allowed, difference)


def rounding_bound(model: PreTrainedModel, num_layers: int, logits: torch.Tensor) -> float:
    """Returns how far the logits of two models with equal weights may differ.

    A result after n roundings in another order differs by about sqrt(n) units of rounding, not n,
    for the errors are as good as independent (Higham and Mary, A New Approach to Probabilistic
    Rounding Error Analysis, SIAM J. Sci. Comput. 41(5), 2019). Each layer is `_STEPS_PER_LAYER`
    results deep; in float32 each is a sum of as many rounded terms as the state is wide, in
    narrower dtypes sums are kept in float32 and rounded once.

    Args:
        model: The model; its width and dtype count.
        num_layers: Its depth.
        logits: Its logits, of any shape, in the dtype the model gives them in.

    Returns:
        sqrt(n) units of rounding, times the largest finite logit.
    """
    # The coarser one, because some models compute in 16 bits and return logits in 32.
    unit = max(torch.finfo(dtype).eps for dtype in (model.dtype, logits.dtype)) / 2
    table: Any = model.get_input_embeddings()
    terms = 1 if unit > torch.finfo(torch.float32).eps else table.weight.shape[-1]
    roundings = _STEPS_PER_LAYER * num_layers * terms
    finite = logits[logits.isfinite()].abs()
    largest = finite.max().item() if len(finite) else 0.0
    return math.sqrt(roundings) * unit * largest


def _compare_greedy(
    built: PreTrainedModel, expected: PreTrainedModel, ids: torch.Tensor, allowed: float
) -> tuple[int, bool]:
    """Returns how many greedy tokens were compared, and whether they differ at most at a tie.

    Each of two scores may be off by `allowed`, so a tie lies within twice of it. After a tie the
    texts differ, and the comparison ends.
    """
    ours, scores = _greedy(built, ids)
    theirs, _ = _greedy(expected, ids)
    unlike = (ours != theirs).nonzero()
    if not len(unlike):
        return len(ours), True
    first = int(unlike[0])
    gap = (scores[first][ours[first]] - scores[first][theirs[first]]).item()
    return first, gap <= 2 * allowed


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
    """Whether two tensors have equal bits; a NaN equals itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # A number without dimensions has no last one to cut into bytes.
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _prompt(model: PreTrainedModel) -> torch.Tensor:
    config = model.config.get_text_config()
    longest = max_positions(config)
    room = _PROMPT_TOKENS if longest is None else longest - _GREEDY_TOKENS
    length = max(1, min(_PROMPT_TOKENS, room))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (1, length), generator=generator)
    return ids.to(model.device)


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        return logits


def _greedy(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Generated tokens, and the scores of the vocabulary at each of them."""
    output = generate(
        model,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=_GREEDY_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return output.sequences[0, ids.shape[1] :], [scores[0] for scores in output.scores]
