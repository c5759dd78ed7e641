"""A member's answers as metrics and samples, by lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lm_eval
import numpy as np
from lm_eval.api import metrics
from lm_eval.api.model import LM
from lm_eval.utils import handle_non_serializable, sanitize_list

from ..checkpoint.output import write_text
from ..errors import ResultsError
from ..layers import Member
from .requests import Recorded
from .statistics import Estimate, ratio
from .store import Answer, Outcome
from .tasks import quiet, task_errors

# The harness's own number.
_BOOTSTRAPS = 100_000

# Aggregations whose values can be paired by document, and how many numbers a document has.
_PAIRED: dict[Any, int] = {
    metrics.mean: 1,
    metrics.perplexity: 1,
    metrics.weighted_perplexity: 2,
    metrics.bits_per_byte: 2,
}

Samples = list[dict[str, Any]]


class _Answers(LM):
    """A model whose answers are known."""

    def __init__(self, responses: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self._responses = responses

    def loglikelihood(self, requests: Any) -> list[Any]:
        return self._responses["loglikelihood"]

    def loglikelihood_rolling(self, requests: Any) -> list[Any]:
        return self._responses["loglikelihood_rolling"]

    def generate_until(self, requests: Any) -> list[Any]:
        return self._responses["generate_until"]


def judge(
    recorded: Recorded, answers: Sequence[Answer], member: Member, *, with_errors: bool = True
) -> tuple[Outcome, Samples]:
    """The metrics that the harness computes from a member's answers, and its own samples.

    Standard errors are optional because some take the harness minutes.

    Raises:
        ResultsError: A metric is not finite, or the task changes its requests.
        DataError: The task's code fails.
    """
    name = recorded.items.task
    recorded.reset()
    # The harness would make requests again for each model.
    recorded.task.build_all_requests = lambda **_: None
    with quiet(), task_errors(name, "cannot process its results"):
        results = lm_eval.evaluate(
            lm=_Answers(recorded.responses(answers)),
            task_dict={"tasks": {name: recorded.task}},
            limit=recorded.limit,
            bootstrap_iters=_BOOTSTRAPS if with_errors else 0,
            log_samples=True,
        )
    found, samples = results["results"][name], results["samples"][name]
    values = metric_values(found)
    for key, (value, _) in values.items():
        if not math.isfinite(value):
            where = f"{name}, member {list(member.patched)}"
            raise ResultsError(f"{key} is not finite", where=where)
    by_document = {key: _by_document(recorded, key, samples) for key in values}
    outcome = Outcome(
        documents=int(found["sample_len"]),
        values=values,
        by_document={key: tuple(each) for key, each in by_document.items() if each},
    )
    return outcome, samples


def metric_values(found: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Values and standard errors in the harness's results of a task or group."""
    result: dict[str, tuple[float, float | None]] = {}
    for key, value in found.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr") and _is_number(value):
            error = found.get(f"{metric}_stderr,{filter_name}")
            known = _is_number(error) and math.isfinite(cast(float, error))
            result[key] = (float(value), float(cast(float, error)) if known else None)
    return result


def harness_values(outcome: Outcome) -> dict[str, Any]:
    """Values and standard errors as the harness's groups take them."""
    result: dict[str, Any] = {"sample_len": outcome.documents}
    for key, (value, error) in outcome.values.items():
        metric, _, filter_name = key.partition(",")
        result[key] = value
        result[f"{metric}_stderr,{filter_name}"] = "N/A" if error is None else error
    return result


def estimate(recorded: Recorded, outcome: Outcome, key: str) -> Estimate | None:
    """A metric as an estimate over documents, or None if it cannot be paired by document."""
    if key not in outcome.by_document:
        return None
    count = len(outcome.by_document[key])
    documents = np.array(outcome.by_document[key], dtype=np.float64).reshape(count, -1)
    weights = documents[:, 1] if documents.shape[1] == 2 else np.ones(count)
    mean = ratio(documents[:, 0], weights)
    aggregation = _aggregation(recorded, key)
    if aggregation is metrics.mean:
        return mean
    if aggregation is metrics.bits_per_byte:
        return mean.scaled(-1 / math.log(2))
    return mean.scaled(-1).exp()


def write_samples(directory: Path, member: Member, task: str, samples: Samples) -> None:
    """Write samples as the harness does, as `patched-16-17-18/samples_TASK.jsonl`."""
    name = "-".join(["patched", *map(str, member.patched)]) if member.patched else "student"
    path = directory / name / f"samples_{task.replace('/', '__')}.jsonl"
    lines = (
        json.dumps(_line(sample), default=handle_non_serializable, ensure_ascii=False)
        for sample in samples
    )
    write_text(path, "".join(line + "\n" for line in lines))


def _line(sample: dict[str, Any]) -> dict[str, Any]:
    arguments = {
        f"gen_args_{index}": {f"arg_{place}": value for place, value in enumerate(each)}
        for index, each in enumerate(sample["arguments"])
    }
    return {
        **sample,
        "arguments": arguments,
        "resps": sanitize_list(sample["resps"]),
        "filtered_resps": sanitize_list(sample["filtered_resps"]),
        "target": str(sample["target"]),
    }


def _by_document(recorded: Recorded, key: str, samples: Samples) -> list[Any] | None:
    """What a metric is computed from, for each document; None if it cannot be paired."""
    metric, _, filter_name = key.partition(",")
    width = _PAIRED.get(_aggregation(recorded, key))
    mine = [sample for sample in samples if sample["filter"] == filter_name]
    # If a metric depends on the answers, members have it for different documents.
    if width is None or len(mine) < 2 or not all(metric in each["metrics"] for each in mine):
        return None
    numbers = [np.asarray(each[metric], dtype=np.float64).reshape(-1) for each in mine]
    if any(each.shape != (width,) for each in numbers):
        return None
    return [float(each[0]) if width == 1 else tuple(each.tolist()) for each in numbers]


def _aggregation(recorded: Recorded, key: str) -> Any:
    return recorded.task.aggregation().get(key.partition(",")[0], metrics.mean)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)
