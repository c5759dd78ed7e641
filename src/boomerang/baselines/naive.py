"""Naive pruning: the student's layers without any training.

The control for the distillation (a baseline of arXiv 2510.05064): blocks of teacher layers are put
back into the untouched cut of the teacher, in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..checkpoint.lock import locked
from ..checkpoint.sources import Source
from ..evaluate.measure import measure
from ..evaluate.options import Measure
from ..evaluate.parallel import is_first, own_device
from ..evaluate.results import Row
from ..family import Family
from ..layers import LayerMap, Member, Order
from ..student import cut

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
        LayerMapError: `layers` is for another number of layers than the teacher has.
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    return Family(teacher, cut(teacher, layers), layers, order=order)


def evaluate_naive(
    teacher: str | Path | Source,
    layers: LayerMap,
    out: str | Path,
    *,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    loading: Mapping[str, Any] | None = None,
    **settings: Any,
) -> list[Row]:
    """Measure naive pruning, as rows of the series `naive`.

    With the settings of the family's own evaluation it may go to the same `out`. The `student` of
    the rows is a hash of the teacher's hash and the kept layers, since no student is on disk.

    Args:
        teacher: A directory or a hub id, with or without `@revision`.
        layers: The teacher layers to keep: those of the student it is compared with.
        out: The output directory.
        members: As in `boomerang.evaluate`.
        order: The order of patching; by default the paper's for the architecture.
        loading: How the teacher is loaded: `dtype`, `device` and more for `from_pretrained`.
        **settings: What to measure on and how, the fields of
            `evaluate.options.Measure`.

    Returns:
        The rows of the members asked for, finished before or now.

    Raises:
        BoomerangError: As in `boomerang.evaluate`.
    """
    what = Measure.of(settings)
    loading = dict(loading or {})
    trust = bool(loading.get("trust_remote_code", False))
    source = Source.open(teacher, trust_remote_code=trust)
    teacher_hash = source.content_hash
    with locked(Path(out), when=is_first()):
        model = source.model(**loading | {"device": own_device(loading.get("device"))})
        return measure(
            naive_family(model, layers),
            out,
            what,
            tokenizer=source.tokenizer,
            teacher_hash=teacher_hash,
            student_hash=cut_hash(teacher_hash, layers),
            series=SERIES,
            members=members,
            order=order,
        )


def cut_hash(teacher_hash: str, layers: LayerMap) -> str:
    """What stands for the untrained cut of a teacher where the content hash of a student would."""
    return hashlib.sha256(f"{teacher_hash} cut {layers.kept}".encode()).hexdigest()[:16]
