"""Measuring a family into an output directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..family import Family
from ..layers import Member, Order
from .documents import Text, default_stride, prepare, read_documents
from .members import MemberScore, choose_members, score_windows, size_in_memory
from .perplexity import DEFAULT_WINDOW, fit_window
from .progress import progress_bar
from .results import BITS_PER_BYTE, DIFFERENCE, FAMILY, PERPLEXITY, Row
from .statistics import paired_difference
from .store import Store, StoredScore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCHEMA_VERSION = 2

# The most work that a killed run loses.
_SECONDS_BETWEEN_WRITES = 20


def measure(
    family: Family,
    out: str | Path,
    texts: Iterable[str | Path],
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_hash: str,
    student_hash: str,
    series: str = FAMILY,
    members: Iterable[int | Member] | None = None,
    order: Order | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
) -> list[Row]:
    """Measure members of a family in memory; what `boomerang.evaluate` does after loading.

    Args:
        family: Teacher and student.
        out: The output directory.
        texts: UTF-8 text files.
        tokenizer: The teacher's tokenizer.
        teacher_hash: What stands for the teacher in the rows; equal for equal content only.
        student_hash: The same for the student.
        series: As in `boomerang.evaluate`, as are all that follow.
        members: Which members.
        order: The order of patching.
        window: The most positions a member sees at once.
        stride: Tokens scored per window.
        batch_size: Windows per call of a model.

    Returns:
        The rows of the members asked for, finished before or now.

    Raises:
        LayerMapError, DataError, OutputError, ResultsError: As in `boomerang.evaluate`.
    """
    paths = [Path(path) for path in texts]
    chosen = choose_members(family, members, order)
    window = fit_window(family.teacher.config, DEFAULT_WINDOW if window is None else window)
    stride = default_stride(window) if stride is None else stride
    text = prepare(read_documents(paths), tokenizer, window=window, stride=stride)
    task = paths[0].stem if len(paths) == 1 else "text"
    store = Store(out, _settings(family, text, task, teacher_hash, window, stride))

    missing = {member: store.missing(student_hash, member, text) for member in chosen}
    with progress_bar(f"Measuring {series}", sum(map(len, missing.values()))) as advance:
        for windows in sorted({*missing.values()} - {()}, key=len):
            together = [member for member in chosen if missing[member] == windows]
            _measure_windows(
                family,
                together,
                text,
                windows,
                store,
                student=student_hash,
                batch_size=batch_size,
                advance=advance,
            )

    neighbours = _smaller_neighbours(family, order)
    rows: list[Row] = []
    for member in chosen:
        score = store.score(student_hash, member, text)
        assert score is not None
        smaller = neighbours.get(member.patched)
        rows += _rows(
            score,
            None if smaller is None else store.score(student_hash, smaller, text),
            task=task,
            teacher=teacher_hash,
            student=student_hash,
            series=series,
        )
    store.add_rows(rows)
    return rows


def _measure_windows(
    family: Family,
    members: Sequence[Member],
    text: Text,
    windows: Sequence[int],
    store: Store,
    *,
    student: str,
    batch_size: int | None,
    advance: Callable[[int], None],
) -> None:
    """Measure members on windows of a text in one pass; what is done is kept, come what may."""
    sizes = [size_in_memory(family, member) for member in members]
    chosen = [text.windows[index] for index in windows]
    try:
        for finished, nll in score_windows(family, members, chosen, batch_size=batch_size):
            indices = tuple(windows[i] for i in finished)
            for member, (parameters, in_bytes), values in zip(members, sizes, nll, strict=True):
                score = StoredScore(
                    student=student,
                    member=member.patched,
                    parameters=parameters,
                    bytes=in_bytes,
                    windows=indices,
                    nll=tuple(values.tolist()),
                )
                store.add_score(score)
            store.write(least_seconds=_SECONDS_BETWEEN_WRITES)
            advance(nll.size)
    finally:
        store.write()


def _settings(
    family: Family, text: Text, task: str, teacher_hash: str, window: int, stride: int
) -> dict[str, object]:
    """What must be equal for rows to belong into one directory."""
    return {
        "schema_version": _SCHEMA_VERSION,
        "teacher": teacher_hash,
        "kept": list(family.layers.kept),
        "task": task,
        "text": text.hash,
        "window": window,
        "stride": stride,
        "dtype": str(family.teacher.dtype).removeprefix("torch."),
    }


def _smaller_neighbours(family: Family, order: Order | None) -> dict[tuple[int, ...], Member]:
    """For the patched layers of each member along the order, the member one size below.

    A difference is always to this neighbour, whichever members are asked for, so that rows of
    several runs can stand side by side.
    """
    members = family.layers.members(family.order if order is None else order)
    return {large.patched: small for small, large in pairwise(members)}


def _rows(
    score: MemberScore,
    smaller: MemberScore | None,
    *,
    task: str,
    teacher: str,
    student: str,
    series: str,
) -> list[Row]:
    scores, member = score.scores, score.member
    values = [
        (PERPLEXITY, scores.perplexity.value, scores.perplexity.stderr),
        (BITS_PER_BYTE, scores.bits_per_byte.value, scores.bits_per_byte.stderr),
    ]
    if smaller is not None:
        difference = paired_difference(scores.perplexity, smaller.scores.perplexity)
        values.append((DIFFERENCE, *difference))
    return [
        Row(
            member=member.patched,
            patch=member.patch,
            order=member.order,
            num_layers=member.num_layers,
            parameters=score.parameters,
            bytes=score.bytes,
            task=task,
            metric=metric,
            value=value,
            stderr=stderr,
            items=len(scores.nll),
            teacher=teacher,
            student=student,
            series=series,
        )
        for metric, value, stderr in values
    ]
