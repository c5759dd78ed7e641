"""Tasks by name, from lm-evaluation-harness and from directories of one's own."""

from __future__ import annotations

import difflib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string
from transformers import GenerationConfig

from ...errors import BoomerangError, DataError
from ..options import INSTALL, Measure
from .quiet import quiet
from .suite import AVERAGES, PAPER, Average, expand

_GENERATE = "generate_until"
_OPTIONS_OF_THE_HARNESS = ("until", "max_gen_toks")


@dataclass(frozen=True)
class Loaded:
    """What the names stand for.

    Attributes:
        tasks: By name; set up as the options say.
        groups: By name; each knows its tasks and how to put their metrics together.
        averages: What to average over them.
    """

    tasks: dict[str, Task]
    groups: dict[str, Group]
    averages: tuple[Average, ...]


def load_tasks(what: Measure) -> Loaded:
    """Load tasks and set them up as `lm_eval` would.

    Raises:
        DataError: An unknown name, data that cannot be had, or a task that cannot be measured here.
    """
    seed_everything()
    # What the harness warns of here concerns who wrote the task files.
    with quiet(logging.ERROR):
        manager = _manager(expand(what.task_names), what.include_path)
        names = _known(expand(what.task_names), manager)
        built = [_load(manager, name) for name in names]
        try:
            found = manager.load(
                [item for each in built for item in (each if isinstance(each, list) else [each])]
            )
        except ValueError as error:
            raise DataError(
                _first_line(error), where="tasks", fix="name just one of the two"
            ) from None
    for name, task in found["tasks"].items():
        _set_up(name, task, what)
    averages = AVERAGES if PAPER in what.task_names else ()
    return Loaded(found["tasks"], found["groups"], averages)


def seed_everything(tasks: Sequence[Task] = ()) -> None:
    """Bring all random states to where `lm_eval` starts: its own seeds, and those of few-shots."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for task in tasks:
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


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
    """Names, patterns replaced by what they match.

    Raises:
        DataError: A name that is none.
    """
    result: list[str] = []
    for name in names:
        is_file = name.endswith(".yaml") and Path(name).is_file()
        matching = [name] if name in manager.all_tasks or is_file else manager.match_tasks([name])
        if not matching:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            raise DataError(
                "there is no such task",
                where=name,
                fix=f"is it {', '.join(near)}?" if near else "give --include-path for your own",
            )
        result += matching
    return list(dict.fromkeys(result))


def _load(manager: TaskManager, name: str) -> Any:
    try:
        loaded = manager._load_spec(name)
    except ImportError as error:
        raise DataError(f"needs {error.name or error}", where=name, fix=INSTALL) from None
    except Exception as error:  # datasets, its file systems and task code raise what they like
        # Those of datasets and of requests are kinds of OSError, those of httpx are not.
        offline = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
        raise DataError(
            f"cannot be loaded ({type(error).__name__}: {_first_line(error)})",
            where=name,
            fix="without a network, only data that is in the cache of datasets can be used"
            if offline
            else None,
        ) from None
    return loaded


def _set_up(name: str, task: Task, what: Measure) -> None:
    """Settings as `lm_eval.simple_evaluate` makes them."""
    if getattr(task, "UNSAFE_CODE", False):
        raise DataError("runs code that models write, which is not done here", where=name)
    if getattr(task, "MULTIMODAL", False):
        raise DataError("asks about more than text, which is not done here", where=name)
    if what.gen_kwargs and task.get_config("output_type") == _GENERATE:
        task.set_config(key="generation_kwargs", value=_gen_kwargs(what), update=True)
    own = task.get_config("num_fewshot")
    if own is None or (what.num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=what.num_fewshot or 0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _gen_kwargs(what: Measure) -> dict[str, Any]:
    given = what.gen_kwargs
    kwargs = dict(simple_parse_args_string(given) if isinstance(given, str) else given or {})
    known = {*GenerationConfig().to_dict(), *_OPTIONS_OF_THE_HARNESS}
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        raise DataError(
            f"{unknown[0]!r} is no option of generation",
            where="gen_kwargs",
            fix="write options as max_gen_toks=64,temperature=0",
        )
    return kwargs


@contextmanager
def task_errors(task: str, what: str) -> Iterator[None]:
    """Raise an error of a task's own code as one line.

    Args:
        task: The task's name.
        what: What the task fails to do.

    Raises:
        DataError: The block fails.
    """
    try:
        yield
    except (BoomerangError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # task files hold templates and Python code
        raise DataError(
            f"{what} ({type(error).__name__}: {_first_line(error)})", where=task
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
