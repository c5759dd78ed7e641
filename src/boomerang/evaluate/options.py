"""What to measure on, and how: one model for Python, the command line, baselines and studies.

Neither torch nor lm-evaluation-harness is needed to read it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from ..errors import DataError
from ..settings import Section, as_recipe_error

INSTALL = 'pip install "boomerang-distillation[tasks]"'


def _path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _paths(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | os.PathLike) else value


def _names(value: Any) -> Any:
    named = isinstance(value, Iterable) and not isinstance(value, str)
    return (",".join(value) if named else value) or None


Text = Annotated[str, BeforeValidator(_path)]


class Measure(Section):
    """What every member or model is measured on, and how.

    Options of tasks have the names and meanings that lm-evaluation-harness gives them.
    """

    texts: Annotated[
        tuple[Text, ...],
        BeforeValidator(_paths),
        Field(
            description="UTF-8 text to measure on; may be repeated. All files together are one "
            "task, named by its file if there is just one and `text` otherwise."
        ),
    ] = ()
    tasks: Annotated[
        str | None,
        BeforeValidator(_names),
        Field(
            description="Tasks, groups, tags, patterns or YAML files, separated by commas; paper "
            "is the paper's suite."
        ),
    ] = None
    window: Annotated[
        int | None,
        Field(ge=1, description="The most positions a model sees at once (default 2048)."),
    ] = None
    stride: Annotated[
        int | None, Field(ge=1, description="Tokens scored per window (default half the window).")
    ] = None
    batch_size: Annotated[
        int | None,
        Field(ge=1, description="Sequences at a time (default: a reasonable number of tokens)."),
    ] = None
    include_path: Annotated[
        Text | None, Field(description="A directory with task files of your own.")
    ] = None
    limit: Annotated[
        float | None, Field(description="Documents of each task, or a share of them below 1.")
    ] = None
    num_fewshot: Annotated[
        int | None,
        Field(description="Examples before each question; a task that says 0 keeps 0."),
    ] = None
    apply_chat_template: Annotated[
        bool, Field(description="Put prompts into the tokenizer's chat template.")
    ] = False
    system_instruction: Annotated[str | None, Field(description="Said before each prompt.")] = None
    gen_kwargs: Annotated[
        str | dict[str, Any] | None,
        Field(description="Options of generation, as max_gen_toks=64,temperature=0."),
    ] = None
    log_samples: Annotated[
        bool, Field(description="Write what each member answered, under OUT/samples.")
    ] = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Measure:
        """The options, checked as far as they can be before anything is loaded.

        Raises:
            DataError: There is nothing to measure on, a value cannot be used, or
                lm-evaluation-harness is needed and not installed.
        """
        try:
            measure = cls(**options)
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
            raise DataError("there is nothing to measure on", fix="give texts or tasks")
        if self.tasks is None:
            return
        if importlib.util.find_spec("lm_eval") is None:
            raise DataError("tasks need lm-evaluation-harness", fix=INSTALL)
        if not self.task_names:
            raise DataError("no task is named", where="tasks", fix="name tasks as arc_easy,mmlu")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise DataError(
                "is no directory", where=self.include_path, fix="give one with task files"
            )
        limit, fewshot = self.limit, self.num_fewshot
        if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit.is_integer())):
            raise DataError(
                f"{limit:g} is no number of documents",
                where="limit",
                fix="give a count, or a share < 1",
            )
        if fewshot is not None and fewshot < 0:
            raise DataError(f"{fewshot} is no number of examples", where="num_fewshot")
