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

from ...checkpoint.output import write_text
from ...errors import ResultsError
from ...layers import Member
from ..statistics import Estimate, exponential, ratio, scaled
from ..store import Outcome
from ..task import Answer
from .load import task_errors
from .quiet import quiet, templates_once
from .requests import Recorded

# The harness's own number.
_BOOTSTRAPS = 100_000

Samples = list[dict[str, Any]]


class _Answers(LM):
    """A model that has answered before."""

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
    recorded: Recorded,
    answers: Sequence[Answer],
    *,
    student: str,
    member: tuple[int, ...],
    with_errors: bool = True,
) -> tuple[Outcome, Samples]:
    """Have the harness process answers to a task.

    Args:
        recorded: The task.
        answers: To its items.
        student: The content hash of the student.
        member: The member's patched layers.
        with_errors: Whether standard errors are wanted; some take the harness minutes.

    Returns:
        The metrics, and the harness's own samples.

    Raises:
        ResultsError: A metric is not finite, or the task changes what it asks.
        DataError: The task's code fails.
    """
    name = recorded.items.task
    recorded.reset()
    model = _Answers(recorded.responses(answers))
    # The harness makes requests anew for each model; they are there.
    recorded.task.build_all_requests = lambda **_: None
    with quiet(), templates_once(), task_errors(name, "cannot process its results"):
        results = lm_eval.evaluate(
            lm=model,
            task_dict={"tasks": {name: recorded.task}},
            limit=recorded.limit,
            bootstrap_iters=_BOOTSTRAPS if with_errors else 0,
            log_samples=True,
        )
    found, samples = results["results"][name], results["samples"][name]
    values = metric_values(found)
    broken = next((key for key, (value, _) in values.items() if not math.isfinite(value)), None)
    if broken is not None:
        raise ResultsError(f"{broken} is not finite", where=f"{name}, member {list(member)}")
    outcome = Outcome(
        student=student,
        member=member,
        task=recorded.items.content,
        documents=int(found["sample_len"]),
        values=values,
        by_document={
            key: tuple(kept)
            for key in values
            if (kept := _by_document(recorded, key, samples)) is not None
        },
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)


def harness_values(outcome: Outcome) -> dict[str, Any]:
    """The same as the harness's groups take it."""
    result: dict[str, Any] = {"sample_len": outcome.documents}
    for key, (value, error) in outcome.values.items():
        metric, _, filter_name = key.partition(",")
        result[key] = value
        result[f"{metric}_stderr,{filter_name}"] = "N/A" if error is None else error
    return result


def estimate(recorded: Recorded, outcome: Outcome, key: str) -> Estimate | None:
    """A metric with each document's part in it, or None where the metric has no such parts."""
    if key not in outcome.by_document:
        return None
    documents = np.array(outcome.by_document[key], dtype=np.float64).reshape(
        len(outcome.by_document[key]), -1
    )
    weights = documents[:, 1] if documents.shape[1] == 2 else np.ones(len(documents))
    mean = ratio(documents[:, 0], weights)
    aggregation = _aggregation(recorded, key)
    if aggregation is metrics.mean:
        return mean
    if aggregation is metrics.bits_per_byte:
        return scaled(mean, -1 / math.log(2))
    return exponential(scaled(mean, -1))


def _by_document(recorded: Recorded, key: str, samples: Samples) -> list[Any] | None:
    metric, _, filter_name = key.partition(",")
    pairs = {metrics.weighted_perplexity: 2, metrics.bits_per_byte: 2}
    aggregation = _aggregation(recorded, key)
    if aggregation not in (metrics.mean, metrics.perplexity, *pairs):
        return None
    mine = [sample for sample in samples if sample["filter"] == filter_name]
    # Where a metric depends on the answers, each member has it for other documents.
    if not all(metric in sample["metrics"] for sample in mine):
        return None
    values = [sample[metric] for sample in mine]
    width = pairs.get(aggregation, 1)
    numbers = [np.asarray(value, dtype=np.float64).reshape(-1) for value in values]
    if len(numbers) < 2 or any(each.shape != (width,) for each in numbers):
        return None
    return [float(each[0]) if width == 1 else tuple(each.tolist()) for each in numbers]


def _aggregation(recorded: Recorded, key: str) -> Any:
    return recorded.task.aggregation().get(key.partition(",")[0], metrics.mean)


def write_samples(
    directory: Path, series: str, member: Member, task: str, samples: list[dict[str, Any]]
) -> Path:
    """Write `SERIES/MEMBER/samples_TASK.jsonl`, whole or not at all; an old one is replaced.

    Args:
        directory: Where the samples of an evaluation are.
        series: The series of the rows.
        member: Which member; its directory is named by its patched layers, as `patched-16-17-18`.
        task: The task's name.
        samples: As `lm_eval.evaluate` returns them.
    """
    name = "-".join(["patched", *map(str, member.patched)]) if member.patched else "student"
    path = directory / series / name / f"samples_{task.replace('/', '__')}.jsonl"
    lines = (
        json.dumps(_line(sample), default=handle_non_serializable, ensure_ascii=False)
        for sample in samples
    )
    write_text(path, "".join(line + "\n" for line in lines))
    return path


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
