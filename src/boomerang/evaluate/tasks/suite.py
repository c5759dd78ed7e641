"""The paper's suite under one name, and its averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PAPER = "paper"

Values = Mapping[tuple[str, str], tuple[float, float | None, int]]
"""By task and metric (as `acc,none`): a value, its standard error, and how many documents."""


@dataclass(frozen=True)
class Average:
    """The plain mean of one metric of each of some tasks, every task with the same weight.

    Attributes:
        task: The name of the rows.
        metric: Their metric.
        parts: Task, and metric and filter as lm-evaluation-harness writes them.
    """

    task: str
    metric: str
    parts: tuple[tuple[str, str], ...]

    def value(self, values: Values) -> tuple[float, float | None, int] | None:
        """The mean, its standard error and the documents; None where a part is missing.

        The standard error is that of a mean of independent values, sqrt(sum of squares) / n, and
        None where a part has none.
        """
        if not all(part in values for part in self.parts):
            return None
        found = [values[part] for part in self.parts]
        errors = [error for _, error, _ in found if error is not None]
        mean = math.fsum(value for value, _, _ in found) / len(found)
        known = len(errors) == len(found)
        stderr = math.hypot(*errors) / len(found) if known else None
        return mean, stderr, sum(items for _, _, items in found)


_CHOICES = (
    "arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa",
    "piqa", "winogrande", "race", "mmlu", "rte",
)  # fmt: skip

AVERAGES = (
    Average("paper/classification", "acc", tuple((task, "acc,none") for task in _CHOICES)),
    Average(
        "paper/generation",
        "acc",
        (
            ("gsm8k_cot", "exact_match,strict-match"),
            ("ifeval", "prompt_level_strict_acc,none"),
            ("hendrycks_math", "exact_match,none"),
        ),
    ),
    Average("paper/perplexity", "word_perplexity", (("wikitext", "word_perplexity,none"),)),
)
"""The tasks are those of arXiv 2510.05064; which metric of each is averaged is our choice."""


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks with `paper` replaced by the tasks of the suite, each once."""
    result: list[str] = []
    for name in names:
        suite = [task for average in AVERAGES for task, _ in average.parts]
        result += suite if name == PAPER else [name]
    return tuple(dict.fromkeys(result))
