"""Measuring every member of a family, as rows of `results.jsonl`.

Nothing heavy is imported before `evaluate` is called, so that reading results needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..callable_module import make_callable

if TYPE_CHECKING:
    import torch

    from ..checkpoint.sources import Sources
    from ..layers import Member, Order
    from .results import Row

__all__ = ["evaluate"]


def evaluate(
    teacher: str | Path,
    student: str | Path,
    out: str | Path,
    *,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    series: str = "family",
    keep: Iterable[int] | None = None,
    **options: Any,
) -> list[Row]:
    """Measure the members of a family on text, and on tasks of lm-evaluation-harness.

    Layers that members share run once for all of them; only generation runs member by member.
    Under `torchrun` the processes share the work, and the first one writes and returns the rows.

    Writes `results.jsonl` into `out`, and what continuing and the report need (docs/evaluation.md).
    An `out` of the same teacher, kept layers and dtype is continued: a member is not asked again
    for answers that `out` has. Tasks and texts may be added; a name that is there must mean the
    same documents, prompts, metrics and settings.

    Args:
        teacher: A directory or a hub id, with or without `@revision`.
        student: The same; its `student_config.json`, if it has one, names the kept layers.
        out: The output directory.
        members: Values of patch, or members; by default every member along the order.
        order: The order of patching; by default the one recorded with the student, or else the
            paper's for the architecture.
        dtype: The dtype of both models; by default the teacher's own.
        device: For both models; by default the CPU.
        series: The name of the series in the rows: `family`, or that of a baseline.
        keep: The teacher layers that the student keeps, where it has no `student_config.json`.
        **options: What to measure on: the fields of `boomerang.evaluate.options.Measure`, such as
            `texts=[...]`, `tasks="arc_easy"`, `window`, `batch_size`, `limit`. All others are for
            `from_pretrained`, such as `attn_implementation` or `device_map`.

    Returns:
        The rows of the members asked for, finished before or now.

    Raises:
        CheckpointError: A model cannot be loaded.
        LayerMapError: A member does not exist.
        DataError: A text or task cannot be used, an option is out of range, or there is nothing to
            measure on.
        OutputError: `out` holds an evaluation with other settings or a model that is read, another
            process writes into it, or the disk is full.
        ResultsError: A log-likelihood or a logit is not finite, or a file in `out` is damaged.
    """
    from ..checkpoint.sources import Sources
    from .options import Measure

    # Checked before a model is looked for.
    what = Measure.of({name: options.pop(name) for name in Measure.names() if name in options})
    trust = bool(options.get("trust_remote_code", False))
    return evaluate_sources(
        Sources.open(teacher, student, keep=keep, trust_remote_code=trust),
        out,
        members=members,
        order=order,
        device=device,
        series=series,
        dtype=dtype,
        **vars(what),
        **options,
    )


def evaluate_sources(
    sources: Sources,
    out: str | Path,
    *,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    device: torch.device | str | None = None,
    series: str = "family",
    **options: Any,
) -> list[Row]:
    """`evaluate`, for a teacher and a student that are found already."""
    from ..checkpoint.lock import locked
    from ..checkpoint.output import check_apart
    from ..family import Family
    from .measure import measure
    from .options import Measure
    from .parallel import is_first, own_device
    from .provenance import write_provenance
    from .results import FAMILY, current, read_results

    what = Measure.of({name: options.pop(name) for name in Measure.names() if name in options})
    teacher, student = sources.teacher, sources.student
    assert student is not None
    check_apart(Path(out), *sources.directories)
    device = own_device(device)
    with locked(Path(out), when=is_first()):
        rows = measure(
            Family.load(sources, device=device, **options),
            out,
            what,
            tokenizer=teacher.tokenizer,
            teacher_hash=teacher.content_hash,
            student_hash=student.content_hash,
            series=series,
            members=members,
            order=order,
        )
        if is_first() and series == FAMILY:
            write_provenance(out, sources, current(read_results(out)))
    return rows


make_callable(__name__)
