"""Measuring every member of a family, as rows of `results.jsonl`.

Nothing heavy is imported before `evaluate` is called, so that reading results needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..layers import Member, Order
    from .results import Row

__all__ = ["evaluate"]


def evaluate(
    teacher: str | Path,
    student: str | Path,
    out: str | Path,
    *,
    texts: Iterable[str | Path],
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    series: str = "family",
    **model_kwargs: Any,
) -> list[Row]:
    """Measure perplexity and bits per byte of the members of a family on text.

    Writes into `out`, as they come:

    - `results.jsonl`: for each member a row of each metric: `perplexity` and `bits_per_byte`, with
      standard errors over windows, and `perplexity_difference`, the perplexity minus that of
      the member one size below where that is measured, with a paired standard error;
    - `scores.jsonl`: the members' log-likelihoods by window, a part of them at a time;
    - `evaluation.json`: the settings.

    All members are measured together: layers that several share run once.

    An `out` with the same settings is continued: windows on which a member has been measured are
    not measured again while the content hash of its student is the same; with a changed student
    all are.

    Args:
        teacher: A directory or a hub id, with or without `@revision`.
        student: The same; its `student_config.json` tells the kept layers.
        out: The output directory.
        texts: UTF-8 text files, together one task, named by its file if it is just one and `text`
            otherwise. A file is one document, or several with `<|endoftext|>` between them.
        members: Values of patch, or members; by default every member along the order.
        order: The order of patching; by default the one recorded with the student, or else the
            paper's for the architecture.
        window: The most positions a member sees at once; by default 2048, and never more than the
            teacher has positions for.
        stride: From 1 to the window; every token is scored once, with at least `window - stride`
            tokens of context where its document has as many. By default half the window.
        batch_size: Windows per call of a model, changing no result; by default a reasonable number
            of tokens, and fewer where the device's memory does not suffice.
        dtype: Of both models; by default the teacher's own.
        device: For both models; by default the CPU.
        series: The name of the series in the rows: `family`, or that of a baseline.
        **model_kwargs: For `from_pretrained`, such as `attn_implementation` or `device_map`.

    Returns:
        The rows of the members asked for, finished before or now.

    Raises:
        CheckpointError: A model cannot be loaded.
        LayerMapError: No such member.
        DataError: A text cannot be used, or window or stride are out of range.
        OutputError: `out` holds an evaluation with other settings.
        ResultsError: A log-likelihood is not finite, or a file in `out` is damaged.
    """
    from ..checkpoint.hashing import content_hash
    from ..checkpoint.resolve import resolve
    from ..family import Family
    from ..loading import load_tokenizer
    from .run import measure

    trust = bool(model_kwargs.get("trust_remote_code", False))
    teacher, student = (resolve(each, trust_remote_code=trust) for each in (teacher, student))
    return measure(
        Family.from_pretrained(teacher, student, dtype=dtype, device=device, **model_kwargs),
        out,
        texts,
        load_tokenizer(teacher, trust_remote_code=trust),
        teacher_hash=content_hash(teacher),
        student_hash=content_hash(student),
        series=series,
        members=members,
        order=order,
        window=window,
        stride=stride,
        batch_size=batch_size,
    )
