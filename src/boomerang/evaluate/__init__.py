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

    All members are measured together: layers that several share run once. Only tasks that let
    members generate text run member by member.

    Writes into `out`, as they come:

    - `results.jsonl`: for each member a row of each metric. For text: `perplexity` and
      `bits_per_byte`, with standard errors over windows. For a task or group of tasks: the
      harness's metrics and standard errors, a filter other than `none` after a comma. Where
      items can be paired, `..._difference` is a metric minus that of the member one size below,
      if that is measured, with a paired standard error;
    - `scores.jsonl`: the members' answers by item, a part of them at a time;
    - `outcomes.jsonl`: what the harness made of them;
    - `samples/`, with `log_samples`: the harness's samples by series, member and task;
    - `evaluation.json`: the settings, those of a task with its first answers;
    - `family.json`: which family it is, and what its members need to run, for the report.

    An `out` of the same teacher, kept layers and dtype is continued: a member is not asked again
    what it has answered while the content hash of its student is the same. New texts and tasks may
    be added; a name that is there already must mean the same: the same documents, prompts, metrics
    and settings.

    Under `torchrun` the processes share the work, each with its own device; the first one writes
    and returns the rows. `out` must be a directory that all of them see.

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
            `texts=[...]`, `tasks="arc_easy"`, `window`, `stride`, `batch_size`, `limit`. All others
            are for `from_pretrained`, such as `attn_implementation` or `device_map`.

    Returns:
        The rows of the members asked for, finished before or now.

    Raises:
        CheckpointError: A model cannot be loaded.
        LayerMapError: No such member.
        DataError: A text or task cannot be used, an option is out of range, or there is nothing to
            measure on.
        OutputError: `out` holds an evaluation with other settings or a model that is read, another
            process writes into it, or the disk is full.
        ResultsError: A log-likelihood or a logit is not finite, or a file in `out` is damaged.
    """
    from ..checkpoint.loading import load_tokenizer
    from ..checkpoint.lock import locked
    from ..checkpoint.output import check_apart
    from ..checkpoint.resolve import resolve
    from ..family import Family
    from ..hashing import content_hash
    from .measure import measure
    from .options import Measure
    from .parallel import is_first, own_device
    from .provenance import write_provenance
    from .results import FAMILY, current, read_results

    what = Measure.of({name: options.pop(name) for name in Measure.names() if name in options})
    keep = None if keep is None else tuple(keep)
    trust = bool(options.get("trust_remote_code", False))
    named = teacher, student
    teacher, student = (resolve(each, trust_remote_code=trust) for each in named)
    check_apart(Path(out), teacher, student)
    device = own_device(device)
    with locked(Path(out), when=is_first()):
        rows = measure(
            Family.from_pretrained(
                teacher, student, dtype=dtype, device=device, keep=keep, **options
            ),
            out,
            what,
            tokenizer=load_tokenizer(teacher, trust_remote_code=trust),
            teacher_hash=content_hash(teacher),
            student_hash=content_hash(student),
            series=series,
            members=members,
            order=order,
        )
        if is_first() and series == FAMILY:
            write_provenance(out, *named, current(read_results(out)), keep)
    return rows


make_callable(__name__)
