"""Tasks by name, from lm-evaluation-harness and from directories of one's own."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import logging
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lm_eval import utils
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers import GenerationConfig

from ..errors import BoomerangError, DataError
from .options import Measure

PAPER = "paper"

GENERATE = "generate_until"
_OPTIONS_OF_THE_HARNESS = ("until", "max_gen_toks")


_CHOICES = (
    "arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa",
    "piqa", "winogrande", "race", "mmlu", "rte",
)  # fmt: skip

AVERAGES = {
    ("paper/classification", "acc"): tuple((task, "acc,none") for task in _CHOICES),
    ("paper/generation", "acc"): (
        ("gsm8k_cot", "exact_match,strict-match"),
        ("ifeval", "prompt_level_strict_acc,none"),
        ("hendrycks_math", "exact_match,none"),
    ),
    ("paper/perplexity", "word_perplexity"): (("wikitext", "word_perplexity,none"),),
}
"""Rows of the paper's suite, by task and metric: the plain mean of a metric of each of some tasks.

The tasks are those of arXiv 2510.05064; which metric of each is averaged is our choice.
"""


def average(
    parts: Sequence[tuple[str, str]],
    values: Mapping[tuple[str, str], tuple[float, float | None, int]],
) -> tuple[float, float | None, int] | None:
    """The mean of values, its standard error and the documents; None where a part is missing.

    The standard error is that of a mean of independent values, sqrt(sum of squares) / n, and None
    where a part has none. `values` are (value, standard error, documents) by task and metric.
    """
    if not all(part in values for part in parts):
        return None
    found, errors, items = zip(*(values[part] for part in parts), strict=True)
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) / len(found) if len(known) == len(found) else None
    return math.fsum(found) / len(found), stderr, sum(items)


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks with `paper` replaced by the tasks of the suite, each once."""
    suite = [task for parts in AVERAGES.values() for task, _ in parts]
    found = (task for name in names for task in (suite if name == PAPER else [name]))
    return tuple(dict.fromkeys(found))


def load_tasks(what: Measure) -> tuple[dict[str, Task], dict[str, Group]]:
    """Tasks and groups by name, set up as `lm_eval` would; raises `DataError` where it cannot."""
    seed_everything()
    names = expand(what.task_names)
    with quiet():
        manager = _manager(names, what.include_path)
        built: list[Any] = []
        for name in _known(names, manager):
            with task_errors(name, "cannot be loaded"):
                loaded = manager._load_spec(name)
                built += loaded if isinstance(loaded, list) else [loaded]
        with task_errors("tasks", "cannot be measured together"):
            found = manager.load(built)
    for name, task in found["tasks"].items():
        _set_up(name, task, what)
    return found["tasks"], found["groups"]


def seed_everything(tasks: Sequence[Task] = ()) -> None:
    """Set all random states to where `lm_eval` starts, and those of few-shot examples."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for task in tasks:
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block the harness prints nothing, and compiles a template just once.

    It otherwise compiles templates again for each document and member, which takes far longer than
    filling them in. Its warnings are for the authors of task files.
    """
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            mock.patch.object(tqdm, "__init__", _without_bar),
            mock.patch.object(utils.env, "from_string", _compiled),
        ):
            yield
    finally:
        logger.setLevel(before)


_compiled = functools.lru_cache(maxsize=1024)(utils.env.from_string)
_tqdm_init = tqdm.__init__


def _without_bar(self: Any, *args: Any, **kwargs: Any) -> None:
    _tqdm_init(self, *args, **{**kwargs, "disable": True})


@contextlib.contextmanager
def task_errors(task: str, what: str) -> Iterator[None]:
    """Raise an error of the harness, or of a task's own code, as a `DataError` of one line."""
    try:
        yield
    except (BoomerangError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # task files hold templates and Python code
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise DataError(f"{what} ({type(error).__name__}: {reason})", where=task) from error


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """The index of tasks; the harness's own ones, which take long to list, only where needed."""
    if include_path is not None:
        own = TaskManager(include_path=include_path, include_defaults=False)
        if all(_complete(name, own.task_index) for name in names):
            return own
    return TaskManager(include_path=include_path)


def _complete(name: object, index: Mapping[str, Any]) -> bool:
    """Whether a name, and for a group every name in it, is in an index."""
    entry = index.get(name) if isinstance(name, str) else None
    if entry is None:
        return False
    children = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else []
    return isinstance(children, list) and all(_complete(child, index) for child in children)


def _known(names: Sequence[str], manager: TaskManager) -> list[str]:
    """Names, with patterns replaced by what they match."""
    result: list[str] = []
    for name in names:
        is_file = name.endswith(".yaml") and Path(name).is_file()
        matching = [name] if name in manager.all_tasks or is_file else manager.match_tasks([name])
        if not matching:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            fix = f"is it {', '.join(near)}?" if near else "give --include-path for your own"
            raise DataError("there is no such task", where=name, fix=fix)
        result += matching
    return list(dict.fromkeys(result))


def _set_up(name: str, task: Task, what: Measure) -> None:
    """Settings as `lm_eval.simple_evaluate` makes them."""
    if getattr(task, "UNSAFE_CODE", False):
        raise DataError("runs code that models write, which is not done here", where=name)
    if getattr(task, "MULTIMODAL", False):
        raise DataError("asks about more than text, which is not done here", where=name)
    if what.gen_kwargs and task.get_config("output_type") == GENERATE:
        task.set_config(key="generation_kwargs", value=_gen_kwargs(what), update=True)
    own = task.get_config("num_fewshot")
    if own is None or (what.num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=what.num_fewshot or 0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _gen_kwargs(what: Measure) -> dict[str, Any]:
    given = what.gen_kwargs
    kwargs = dict(utils.simple_parse_args_string(given) if isinstance(given, str) else given or {})
    known = {*GenerationConfig().to_dict(), *_OPTIONS_OF_THE_HARNESS}
    for key in kwargs:
        if key not in known:
            fix = "write options as max_gen_toks=64,temperature=0"
            raise DataError(f"{key!r} is no option of generation", where="gen_kwargs", fix=fix)
    return kwargs
