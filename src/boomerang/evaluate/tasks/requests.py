"""A task's requests, made once, and what they come to in tokens."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.evaluator_utils import get_sample_size
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import handle_non_serializable

from ...errors import DataError, ResultsError
from ..layout import Request
from ..options import Measure
from ..task import Answer, TaskItems, short_hash
from .load import seed_everything, task_errors
from .quiet import quiet, templates_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROLLING = "loglikelihood_rolling"
_GENERATE = "generate_until"

# One call for all windows of a task; nothing is computed then.
_ALL = 1 << 30

# What says where a task's files are, and no more than its documents say.
_PLACES = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Terms(tuple[int, ...]):
    """Stands for the sum of some token requests' log-likelihoods, which are not known yet."""

    def __add__(self, other: tuple[int, ...]) -> Terms:  # type: ignore[override]
        return Terms((*self, *other))

    def __radd__(self, zero: int) -> Terms:
        return self


class Encoder(HFLM):
    """The harness's model without computation: it lists the token requests it would make.

    Encoding, beginning-of-sequence tokens, truncation and rolling windows are the harness's own.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(**harness_arguments(model, tokenizer, batch_size=_ALL))
        self.requests: list[Request] = []

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[Terms, Terms]]:
        first = len(self.requests)
        self.requests += [(context, continuation) for _, context, continuation in requests]
        return [(Terms((i,)), Terms((i,))) for i in range(first, len(self.requests))]


def harness_arguments(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int
) -> dict[str, Any]:
    """Arguments of `HFLM` for a model in memory; as it may change its tokenizer, a copy of that."""
    return {
        "pretrained": model.eval(),
        "tokenizer": copy.deepcopy(tokenizer),
        "batch_size": batch_size,
    }


@dataclass(frozen=True)
class Recorded:
    """A task with its requests.

    Attributes:
        task: The harness's task, which holds the requests.
        items: The same as token requests and prompts.
        instances: The requests by kind, each as often as it is repeated.
        terms: For each request by kind what its answer is made of: indices of `items`.
        limit: As the harness takes it.
    """

    task: Task
    items: TaskItems
    instances: dict[str, list[Instance]]
    terms: dict[str, list[Terms]]
    limit: int | None

    def reset(self) -> None:
        """Make the task as it was before it met any member.

        Raises:
            ResultsError: Its requests are no longer the recorded ones.
        """
        seed_everything([self.task])
        for instance in self.task.instances:
            instance.resps, instance.filtered_resps = [], {}
        if _content_of(self.task) != self.items.settings["content"]:
            raise ResultsError(
                "its requests changed while it was measured",
                where=self.items.task,
                fix="mend the task's code, which alters its documents",
            )

    def responses(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """Answers to the questions as the harness's model would give them, by kind of request."""
        return {
            kind: [_response(kind, [answers[item] for item in each]) for each in terms]
            for kind, terms in self.terms.items()
        }


def record(name: str, task: Task, encoder: Encoder, what: Measure) -> Recorded:
    """Have a task make its requests.

    Raises:
        DataError: It cannot, or one does not fit into the model.
    """
    with quiet(), templates_once(), task_errors(name, "cannot make its requests"):
        limit = get_sample_size(task, what.limit)
        _build(task, encoder, limit, what)
        instances: dict[str, list[Instance]] = {}
        for instance in task.instances:
            repeated = [instance] * (instance.repeats or 1)
            instances.setdefault(instance.request_type, []).extend(repeated)
        encoder.requests = []
        terms = {
            kind: _encode(kind, encoder, of_kind)
            for kind, of_kind in instances.items()
            if kind != _GENERATE
        }
    requests, prompts = encoder.requests, instances.get(_GENERATE, [])
    _check(name, requests, prompts, encoder)
    documents = [0] * len(requests)
    for kind, each in terms.items():
        for instance, indices in zip(instances[kind], each, strict=True):
            for item in indices:
                documents[item] = instance.doc_id or 0
    if prompts:
        terms[_GENERATE] = [Terms((len(requests) + index,)) for index in range(len(prompts))]
    content = _content_of(task)
    tokens = (f"{list(context)} {list(continuation)}" for context, continuation in requests)
    encoded = (str(encoder.tok_encode(instance.args[0])) for instance in prompts)
    items = TaskItems(
        task=name,
        content=short_hash([content, str(encoder.max_length), *tokens, *encoded]),
        settings={
            "content": content,
            "num_fewshot": task.get_config("num_fewshot"),
            "limit": _whole(what.limit),
            "chat_template": what.apply_chat_template,
            "system_instruction": what.system_instruction,
            "generation": task.get_config("generation_kwargs") if prompts else None,
        },
        requests=requests,
        documents=[*documents, *(instance.doc_id or 0 for instance in prompts)],
        prompts=prompts,
    )
    return Recorded(task, items, instances, terms, limit)


def _build(task: Task, encoder: Encoder, limit: int | None, what: Measure) -> None:
    template = what.apply_chat_template
    task.build_all_requests(
        limit=limit,
        system_instruction=what.system_instruction,
        apply_chat_template=template,
        # As `lm_eval` does where a chat template is asked for.
        fewshot_as_multiturn=template,
        chat_template=encoder.apply_chat_template if template else None,
        tokenizer_name=encoder.tokenizer_name if template else "",
    )


def _encode(kind: str, encoder: Encoder, instances: list[Instance]) -> list[Terms]:
    found = getattr(encoder, kind)(instances, disable_tqdm=True)
    # A single request also says whether it is the most probable one. An empty text has no
    # windows, and the harness's sum of none is the number 0.
    return [(each or Terms()) if kind == _ROLLING else each[0] for each in found]


def _response(kind: str, answers: Sequence[Answer]) -> Any:
    if kind == _ROLLING:
        return float(sum(float(answer[0]) for answer in answers))
    (answer,) = answers
    return answer


def _check(
    name: str, requests: Sequence[Request], prompts: Sequence[Instance], encoder: Encoder
) -> None:
    """Refuse now what would fail later."""
    for context, continuation in requests:
        if not context or not continuation:
            raise DataError("has a request with nothing to score", where=name)
        if len(continuation) > encoder.max_length:
            raise DataError(
                f"has a continuation of {len(continuation)} tokens, more than the "
                f"{encoder.max_length} positions of the model",
                where=name,
            )
    for prompt in prompts:
        kwargs = prompt.args[1]
        with task_errors(name, "has options of generation that cannot be used"):
            longest = normalize_gen_kwargs(dict(kwargs), encoder.max_gen_toks)["max_gen_toks"]
        if longest < 1:
            raise DataError(
                f"generates up to {longest} tokens",
                where=name,
                fix="let max_gen_toks be at least 1",
            )
        if longest >= encoder.max_length:
            raise DataError(
                f"generates up to {longest} tokens, as many as the model has positions "
                f"({encoder.max_length})",
                where=name,
                fix="give gen_kwargs max_gen_toks=N with a smaller N",
            )


def _content_of(task: Task) -> str:
    """A hash of a task's requests, documents and metrics, wherever its files are."""
    config = {key: value for key, value in task.dump_config().items() if key not in _PLACES}
    lines = [_json(config)]
    lines += [
        _json([each.request_type, each.doc_id, each.idx, each.repeats, each.args, each.doc])
        for each in task.instances
    ]
    return short_hash(lines)


def _whole(limit: float | None) -> float | None:
    return int(limit) if limit is not None and limit >= 1 else limit


def _json(value: object) -> str:
    return _ADDRESS.sub("", json.dumps(value, sort_keys=True, default=handle_non_serializable))
