"""Naive pruning: the student's layers without any training.

The control for the distillation (a baseline of arXiv 2510.05064): blocks of teacher layers are put
back into the untouched cut of the teacher, in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from ..checkpoint.hashing import content_hash
from ..checkpoint.resolve import resolve
from ..evaluate.results import Row
from ..evaluate.run import measure
from ..family import Family
from ..layers import LayerMap, Member, Order
from ..loading import load_model, load_tokenizer
from ..student import cut

if TYPE_CHECKING:
    import torch

SERIES = "naive"


def naive_family(
    teacher: PreTrainedModel, layers: LayerMap, *, order: Order | None = None
) -> Family:
    """The family of a teacher and the untrained cut of it, all over the teacher's own tensors.

    Args:
        teacher: The live teacher; left as it is.
        layers: The teacher layers to keep.
        order: The family's default order of patching.

    Raises:
        LayerMapError: `layers` speaks of another number of layers than the teacher has.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    return Family(teacher, cut(teacher, layers), layers, order=order)


def evaluate_naive(
    teacher: str | Path,
    layers: LayerMap,
    out: str | Path,
    *,
    texts: Iterable[str | Path],
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    **model_kwargs: Any,
) -> list[Row]:
    """Measure naive pruning, as rows of the series `naive`.

    With the settings of the family's own evaluation it may go to the same `out`. The `student` of
    the rows is a hash of the teacher's hash and the kept layers, since no student is on disk.

    Args:
        teacher: A directory or a hub id, with or without `@revision`.
        layers: The teacher layers to keep: those of the student it is compared with.
        out: The output directory.
        texts: As in `boomerang.evaluate`, as are all that follow.
        members: Which members.
        order: The order of patching; by default the paper's for the architecture.
        window: The most positions a member sees at once.
        stride: Tokens scored per window.
        batch_size: Windows per call of a model.
        dtype: Of the teacher; by default its own.
        device: For the teacher; by default the CPU.
        **model_kwargs: For `from_pretrained`.

    Returns:
        The rows of the members asked for, finished before or now.

    Raises:
        BoomerangError: As in `boomerang.evaluate`.
    """
    trust = bool(model_kwargs.get("trust_remote_code", False))
    teacher = resolve(teacher, trust_remote_code=trust)
    teacher_hash = content_hash(teacher)
    model = load_model(teacher, dtype=dtype, device=device, **model_kwargs)
    return measure(
        naive_family(model, layers),
        out,
        texts,
        load_tokenizer(teacher, trust_remote_code=trust),
        teacher_hash=teacher_hash,
        student_hash=cut_hash(teacher_hash, layers),
        series=SERIES,
        members=members,
        order=order,
        window=window,
        stride=stride,
        batch_size=batch_size,
    )


def cut_hash(teacher_hash: str, layers: LayerMap) -> str:
    """What stands for the untrained cut of a teacher where the content hash of a student would."""
    return hashlib.sha256(f"{teacher_hash} cut {layers.kept}".encode()).hexdigest()[:16]
