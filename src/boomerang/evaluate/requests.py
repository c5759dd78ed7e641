"""A task's requests, made once, and the token requests they come to."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.evaluator_utils import get_sample_size
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import handle_non_serializable

from ..errors import DataError, ResultsError
from .options import Measure
from .request_rows import Request
from .store import Answer, TaskItems
from .tasks import GENERATE, quiet, seed_everything, task_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROLLING = "loglikelihood_rolling"

# One call for all windows of a task; nothing is computed then.
_ALL = 1 << 30

# What says where a task's files are, and nothing that its documents do not say.
_PLACES = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Terms(tuple[int, ...]):
    """Stands for the sum of some token requests' log-likelihoods, before these are known."""

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
        for _, context, continuation in requests:
            if not context or not 1 <= len(continuation) <= self.max_length:
                raise ValueError(
                    f"{len(continuation)} tokens to score after {len(context)}, and the model has "
                    f"{self.max_length} positions"
                )
            self.requests.append((context, continuation))
        return [(Terms((i,)), Terms((i,))) for i in range(first, len(self.requests))]


def harness_arguments(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int
) -> dict[str, Any]:
    """Arguments of `HFLM` for a model in memory; it may change its tokenizer, which is a copy."""
    own = copy.deepcopy(tokenizer)
    return {"pretrained": model.eval(), "tokenizer": own, "batch_size": batch_size}


@dataclass(frozen=True)
class Recorded:
    """A task with its requests."""

    task: Task  # the harness's, which holds the requests
    items: TaskItems  # the same as token requests and prompts
    terms: dict[str, list[Terms]]  # the items that make the answer to each request, by kind
    limit: int | None  # as the harness takes it

    def reset(self) -> None:
        """Bring the task back to where it was before any member answered."""
        seed_everything([self.task])
        for instance in self.task.instances:
            instance.resps, instance.filtered_resps = [], {}
        if _content_of(self.task) != self.items.settings["content"]:
            raise ResultsError(
                "its requests changed while it was measured",
                where=self.items.task,
                fix="change the task's code, which alters its documents",
            )

    def responses(self, answers: Sequence[Answer]) -> dict[str, list[Any]]:
        """Answers to the items as the harness's model would give them, by kind of request."""
        found = {
            kind: [[answers[item] for item in each] for each in terms]
            for kind, terms in self.terms.items()
        }
        return {
            kind: [
                sum((a[0] for a in each), 0.0) if kind == _ROLLING else each[0] for each in of_kind
            ]
            for kind, of_kind in found.items()
        }


def record(name: str, task: Task, encoder: Encoder, what: Measure) -> Recorded:
    """Have a task make its requests; raises `DataError` if it cannot or one does not fit."""
    template = what.apply_chat_template
    instances: dict[str, list[Instance]] = {}
    with quiet(), task_errors(name, "cannot make its requests"):
        count = get_sample_size(task, what.limit)
        task.build_all_requests(
            limit=count,
            system_instruction=what.system_instruction,
            apply_chat_template=template,
            # As `lm_eval` does where a chat template is asked for.
            fewshot_as_multiturn=template,
            chat_template=encoder.apply_chat_template if template else None,
            tokenizer_name=encoder.tokenizer_name if template else "",
        )
        for instance in task.instances:
            repeated = [instance] * (instance.repeats or 1)
            instances.setdefault(instance.request_type, []).extend(repeated)
        prompts = instances.pop(GENERATE, [])
        encoder.requests = []
        terms = {kind: _encode(kind, encoder, each) for kind, each in instances.items()}
    requests = encoder.requests
    with task_errors(name, "has options of generation that cannot be used"):
        options = [normalize_gen_kwargs(dict(p.args[1]), encoder.max_gen_toks) for p in prompts]
    for longest in (each["max_gen_toks"] for each in options):
        if not 1 <= longest < encoder.max_length:
            problem = f"generates up to {longest} tokens with {encoder.max_length} positions"
            raise DataError(problem, where=name, fix="give gen_kwargs max_gen_toks=N")
    documents = [0] * len(requests)
    for kind, each in terms.items():
        for instance, indices in zip(instances[kind], each, strict=True):
            for item in indices:
                documents[item] = instance.doc_id or 0
    if prompts:
        terms[GENERATE] = [Terms((len(requests) + index,)) for index in range(len(prompts))]
    content = _content_of(task)
    tokens = (f"{list(context)} {list(continuation)}" for context, continuation in requests)
    encoded = (str(encoder.tok_encode(instance.args[0])) for instance in prompts)
    whole = what.limit is not None and what.limit >= 1
    items = TaskItems(
        task=name,
        content=_short_hash([content, str(encoder.max_length), *tokens, *encoded]),
        settings={
            "content": content,
            "num_fewshot": task.get_config("num_fewshot"),
            "limit": int(what.limit or 0) if whole else what.limit,
            "chat_template": template,
            "system_instruction": what.system_instruction,
            "generation": task.get_config("generation_kwargs") if prompts else None,
        },
        requests=requests,
        documents=[*documents, *(instance.doc_id or 0 for instance in prompts)],
        max_length=encoder.max_length,
        prompts=prompts,
    )
    return Recorded(task, items, terms, count)


def _encode(kind: str, encoder: Encoder, instances: list[Instance]) -> list[Terms]:
    found = getattr(encoder, kind)(instances, disable_tqdm=True)
    # A single request also says whether it is the most probable one. An empty text has no
    # windows, and the harness's sum of none is the number 0.
    return [(each or Terms()) if kind == _ROLLING else each[0] for each in found]


def _content_of(task: Task) -> str:
    """A hash of a task's requests, documents and metrics, wherever its files are."""
    config = {key: value for key, value in task.dump_config().items() if key not in _PLACES}
    requests = (
        [each.request_type, each.doc_id, each.idx, each.repeats, each.args, each.doc]
        for each in task.instances
    )
    encoder = json.JSONEncoder(sort_keys=True, default=handle_non_serializable)
    return _short_hash(_ADDRESS.sub("", encoder.encode(each)) for each in (config, *requests))


def _short_hash(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:16]
