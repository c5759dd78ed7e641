"""What to measure on, and how: one model for Python, the command line, baselines and studies."""

# ruff: noqa: RUF009
from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from ..errors import DataError

_INSTALL = 'pip install "boomerang-distillation[tasks]"'


_Number = Annotated[int | None, Ge(1)]


def _option(description: str, default: bool | None = None) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class Measure:
    """What every member or model is measured on, and how, in the harness's names.

    Not a pydantic model because `boomerang --help` must not import pydantic; pydantic checks it.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    texts: tuple[str, ...] | None = _option(
        "UTF-8 text to measure on; may be repeated. All files together are one task, named by its "
        "file if there is just one and `text` otherwise."
    )
    tasks: str | None = _option(
        "Tasks, groups, tags, patterns or YAML files, separated by commas; paper is the paper's "
        "suite."
    )
    window: _Number = _option("The most positions a model sees at once (default 2048).")
    stride: _Number = _option("Tokens scored per window (default half the window).")
    batch_size: _Number = _option("Sequences at a time (default: a reasonable number of tokens).")
    include_path: str | None = _option("A directory with task files of your own.")
    limit: Annotated[float | None, Gt(0)] = _option(
        "Documents of each task, or a share of them below 1."
    )
    num_fewshot: Annotated[int | None, Ge(0)] = _option(
        "Examples before each question; a task that says 0 keeps 0."
    )
    apply_chat_template: bool = _option("Put prompts into the tokenizer's chat template.", False)
    system_instruction: str | None = _option("Said before each prompt.")
    gen_kwargs: str | dict[str, Any] | None = _option(
        "Options of generation, as max_gen_toks=64,temperature=0."
    )
    log_samples: bool = _option("Write what each member answered, under OUT/samples.", False)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options."""
        return tuple(each.name for each in fields(cls))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Measure:
        """The options, checked as far as possible before anything is loaded.

        Texts and tasks may be any iterables here, and paths any path-like objects.

        Raises:
            DataError: There is nothing to measure on, a value cannot be used, or
                lm-evaluation-harness is needed and not installed.
        """
        from pydantic import TypeAdapter, ValidationError

        from ..settings import as_recipe_error

        given = dict(options)
        texts, tasks, path = (given.get(name) for name in ("texts", "tasks", "include_path"))
        texts = (texts,) if isinstance(texts, str | os.PathLike) else texts or ()
        given["texts"] = tuple(os.fspath(each) for each in texts)
        given["tasks"] = (tasks if isinstance(tasks, str) else ",".join(tasks or ())) or None
        given["include_path"] = None if path is None else os.fspath(path)
        try:
            measure = TypeAdapter(cls).validate_python(given)
        except ValidationError as error:
            found = as_recipe_error(error, cls)
            raise DataError(found.what, where=found.where, fix=found.fix) from None
        measure.check()
        return measure

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of tasks, each once."""
        names = (name.strip() for name in (self.tasks or "").split(","))
        return tuple(dict.fromkeys(name for name in names if name))

    def check(self) -> None:
        """Refuse what cannot be measured; raises as `of`."""
        if not self.texts and self.tasks is None:
            raise DataError(
                "there is nothing to measure on",
                fix="give --text FILE (texts=) or --tasks NAMES (tasks=)",
            )
        if self.tasks is None:
            return
        if importlib.util.find_spec("lm_eval") is None:
            raise DataError("tasks need lm-evaluation-harness", fix=_INSTALL)
        if not self.task_names:
            raise DataError("no task is named", where="tasks", fix="name tasks as arc_easy,mmlu")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            fix = "give one with task files"
            raise DataError("is not a directory", where=self.include_path, fix=fix)
