"""Keeping lm-evaluation-harness from writing among our own lines, and from repeating itself."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import datasets
from lm_eval import utils
from tqdm import tqdm

# Where the harness finds its bars, which no argument turns off; the last is looked up when needed.
_BARS = (
    "lm_eval.api.task.tqdm",
    "lm_eval.api.model.tqdm",
    "lm_eval.models.huggingface.tqdm",
    "tqdm.tqdm",
)


@contextlib.contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Within the block the harness shows no bars, prints nothing and logs from a level on."""
    logger = logging.getLogger("lm_eval")
    before, bars = logger.level, datasets.is_progress_bar_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        for name in _BARS:
            stack.enter_context(mock.patch(name, _no_bar))
        logger.setLevel(level)
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            logger.setLevel(before)
            if bars:
                datasets.enable_progress_bars()


_compiled = functools.lru_cache(maxsize=1024)(utils.env.from_string)


@contextlib.contextmanager
def templates_once() -> Iterator[None]:
    """Within the block the harness compiles a template once, not for each document and member.

    Compiling takes far longer than filling in.
    """
    with mock.patch.object(utils.env, "from_string", _compiled):
        yield


def _no_bar(*args: Any, **kwargs: Any) -> Any:
    return tqdm(*args, **{**kwargs, "disable": True})
