"""What to measure on, and how; readable without lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError

INSTALL = 'pip install "boomerang-distillation[tasks]"'


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, with the settings that lm-evaluation-harness has under the same names.

    Attributes:
        names: Tasks, groups, tags, patterns such as `mmlu_*`, YAML files, and `paper`.
        include_path: A directory with task files of one's own.
        limit: The first so many documents of each task, or a share of them below 1.
        num_fewshot: Examples before each question; a task that says 0 keeps 0.
        apply_chat_template: Whether prompts go through the tokenizer's chat template.
        system_instruction: Said before each prompt.
        gen_kwargs: Options of generation that win over the task's.
        samples: Where to write what each member answered, or None.
    """

    names: tuple[str, ...]
    include_path: Path | None = None
    limit: float | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    gen_kwargs: str | Mapping[str, Any] | None = None
    samples: Path | None = None


def task_options(
    tasks: str | Iterable[str],
    *,
    include_path: str | Path | None,
    limit: float | None,
    num_fewshot: int | None,
    apply_chat_template: bool,
    system_instruction: str | None,
    gen_kwargs: str | Mapping[str, Any] | None,
    samples: Path | None,
) -> TaskOptions:
    """Check what can be checked before anything is loaded.

    Raises:
        DataError: lm-evaluation-harness is not installed, or a value cannot be used.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise DataError("tasks need lm-evaluation-harness", fix=INSTALL)
    given = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    names = tuple(dict.fromkeys(name.strip() for name in given if name.strip()))
    if not names:
        raise DataError("no task is named", where="tasks", fix="name tasks as arc_easy,mmlu")
    if include_path is not None and not Path(include_path).is_dir():
        raise DataError("is no directory", where=include_path, fix="give one with task files")
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and float(limit).is_integer())):
        raise DataError(
            f"{limit} is no number of documents", where="limit", fix="give a count, or a share < 1"
        )
    if num_fewshot is not None and num_fewshot < 0:
        raise DataError(f"{num_fewshot} is no number of examples", where="num_fewshot")
    return TaskOptions(
        names,
        None if include_path is None else Path(include_path),
        limit,
        num_fewshot,
        apply_chat_template,
        system_instruction,
        gen_kwargs,
        samples,
    )
