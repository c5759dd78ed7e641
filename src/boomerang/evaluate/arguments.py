"""What is asked of `boomerang.evaluate`, as `run.measure` takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .tasks.options import task_options


def measure_arguments(
    out: str | Path,
    *,
    texts: Iterable[str | Path] = (),
    tasks: str | Iterable[str] = (),
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    include_path: str | Path | None = None,
    limit: float | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
    gen_kwargs: str | Mapping[str, Any] | None = None,
    log_samples: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of `measure`: what to measure on, and how.

    The arguments are those of `boomerang.evaluate`.

    Raises:
        DataError: There is nothing to measure on, or an option is out of range.
    """
    texts, names = list(texts), tasks if isinstance(tasks, str) else list(tasks)
    if not texts and not names:
        raise DataError("there is nothing to measure on", fix="give texts or tasks")
    options = (
        task_options(
            names,
            include_path=include_path,
            limit=limit,
            num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template,
            system_instruction=system_instruction,
            gen_kwargs=gen_kwargs,
            samples=Path(out) / "samples" if log_samples else None,
        )
        if names
        else None
    )
    return {
        "texts": texts,
        "window": window,
        "stride": stride,
        "batch_size": batch_size,
        "tasks": options,
    }
