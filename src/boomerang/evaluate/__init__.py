"""Measuring every member of a family, as rows of `results.jsonl`.

Nothing heavy is imported before `evaluate` is called, so that reading results needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    texts: Iterable[str | Path] = (),
    tasks: str | Iterable[str] = (),
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    window: int | None = None,
    stride: int | None = None,
    include_path: str | Path | None = None,
    limit: float | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
    gen_kwargs: str | Mapping[str, Any] | None = None,
    log_samples: bool = False,
    batch_size: int | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    series: str = "family",
    keep: Iterable[int] | None = None,
    **model_kwargs: Any,
) -> list[Row]:
    """Measure the members of a family on text, and on tasks of lm-evaluation-harness.

    All members are measured together: layers that several share run once. Only where a task has
    them generate text do they run one after the other.

    Writes into `out`, as they come:

    - `results.jsonl`: for each member a row of each metric. Of text: `perplexity` and
      `bits_per_byte`, with standard errors over windows. Of a task or group of tasks: the
      harness's metrics and standard errors, a filter other than `none` after a comma. Where
      items can be paired, `..._difference` is a metric minus that of the member one size below,
      if that is measured, with a paired standard error;
    - `scores.jsonl`: the members' answers by item, a part of them at a time;
    - `outcomes.jsonl`: what the harness made of them;
    - `samples/`, with `log_samples`: the harness's samples by series, member and task;
    - `evaluation.json`: the settings, those of a task with its first answers;
    - `family.json`: which family it is, and what its members need to run, for the report.

    An `out` of the same teacher, kept layers and dtype is continued: what a member has answered is
    not asked again while the content hash of its student is the same; with a changed student all
    is. New texts and tasks may be added; a name that is there already must mean the same: the
    same documents, prompts, metrics and settings.

    Under `torchrun` the processes share the work, each with its own device; the first one writes
    and returns the rows. `out` must be a directory that all of them see.

    Args:
        teacher: A directory or a hub id, with or without `@revision`.
        student: The same; its `student_config.json`, if it has one, tells the kept layers.
        out: The output directory.
        texts: UTF-8 text files, together one task, named by its file if it is just one and `text`
            otherwise. A file is one document, or several with `<|endoftext|>` between them.
        tasks: Names of tasks, groups or tags, patterns, or YAML files, as a list or separated by
            commas; `paper` is the suite of the paper. Needs the extra `tasks`.
        members: Values of patch, or members; by default every member along the order.
        order: The order of patching; by default the one recorded with the student, or else the
            paper's for the architecture.
        window: The most positions a member sees at once; by default 2048, and never more than the
            teacher has positions for.
        stride: From 1 to the window; every token is scored once, with at least `window - stride`
            tokens of context where its document has as many. By default half the window.
        include_path: A directory with task files of one's own.
        limit: The first so many documents of each task, or a share of them below 1.
        num_fewshot: Examples before each question; a task that says 0 keeps 0.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: Said before each prompt.
        gen_kwargs: Options of generation that win over the tasks', as a mapping or `a=1,b=2`.
        log_samples: Whether to write what each member answered to each document.
        batch_size: Sequences per call of a model; by default a reasonable number of tokens, and
            fewer where the device's memory does not suffice.
        dtype: Of both models; by default the teacher's own.
        device: For both models; by default the CPU.
        series: The name of the series in the rows: `family`, or that of a baseline.
        keep: The teacher layers that the student keeps, where it has no `student_config.json`.
        **model_kwargs: For `from_pretrained`, such as `attn_implementation` or `device_map`.

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
    from .arguments import measure_arguments
    from .measure import measure
    from .parallel import is_first, own_device
    from .provenance import write_provenance
    from .results import FAMILY, current, read_results

    asked = measure_arguments(
        out,
        texts=texts,
        tasks=tasks,
        window=window,
        stride=stride,
        batch_size=batch_size,
        include_path=include_path,
        limit=limit,
        num_fewshot=num_fewshot,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        gen_kwargs=gen_kwargs,
        log_samples=log_samples,
    )
    keep = None if keep is None else tuple(keep)
    trust = bool(model_kwargs.get("trust_remote_code", False))
    named = teacher, student
    teacher, student = (resolve(each, trust_remote_code=trust) for each in named)
    check_apart(Path(out), teacher, student)
    device = own_device(device)
    with locked(Path(out), when=is_first()):
        rows = measure(
            Family.from_pretrained(
                teacher, student, dtype=dtype, device=device, keep=keep, **model_kwargs
            ),
            out,
            tokenizer=load_tokenizer(teacher, trust_remote_code=trust),
            teacher_hash=content_hash(teacher),
            student_hash=content_hash(student),
            series=series,
            members=members,
            order=order,
            **asked,
        )
        if is_first() and series == FAMILY:
            write_provenance(out, *named, current(read_results(out)), keep)
    return rows


make_callable(__name__)
