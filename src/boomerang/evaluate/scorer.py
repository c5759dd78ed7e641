"""Log-likelihoods of token requests under many members in one pass.

A layer runs once for all members that share it and all layers before it. A token runs once for all
requests that begin alike. The head runs only where a target is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint.loading import check_tokens
from ..errors import BoomerangError, ResultsError
from ..family import Family
from ..layers import Member
from ..models.kv_cache import layer_caches
from ..models.runner import Runner
from .batches import Batch, make_batch, split
from .probes import branching_row, keeps_branches_apart, resumes_exactly
from .request_rows import Ints, Request, Row, lay_out
from .shared_layers import Visit, final_states, walk

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens of a call, where no batch size is given. A CPU is busy with few, and their states stay in
# its caches; an accelerator starts with many and gets fewer if they do not fit in its memory.
_TOKENS_ON_CPU = 1024
_TOKENS = 1 << 16

_NO_WINDOW = 1 << 62

# Logits in memory at a time, whatever the vocabulary. Accelerators need large products to be busy.
# A CPU's allocator returns blocks of 32 MiB and more to the system, which clears them at each use.
_LOGITS_ON_CPU = 7 << 20
_LOGITS = 1 << 27


@dataclass(frozen=True)
class Scored:
    """The scores of some requests.

    Attributes:
        requests: Shape (n,): their indices.
        log_likelihood: Shape (models, n), float64: the sum of the log-probabilities of the
            continuation's tokens, each in fp32, in nats.
        greedy: Shape (models, n): whether each token of the continuation is the most probable one.
    """

    requests: NDArray[np.int64]
    log_likelihood: NDArray[np.float64]
    greedy: NDArray[np.bool_]


class Scorer:
    """Scores requests with several members of a family in one pass.

    Besides the models it needs memory for one batch: the states at some branch points (at most log2
    of the number of members, and one along a sequential order), what a single layer needs, and a
    bounded number of logits.

    Args:
        family: Teacher and student in memory; neither is changed, nor is its training mode.
        members: Which members, each once.
        max_length: The most tokens a model is fed.
        batch_size: Rows in a call of a model, which changes results by rounding only; by default
            as many as make a reasonable number of tokens.

    Raises:
        ArchitectureError: A model is not a base model with an output matrix.
    """

    def __init__(
        self,
        family: Family,
        members: Iterable[Member],
        *,
        max_length: int,
        batch_size: int | None = None,
    ) -> None:
        members = list(members)
        self.models = [family.model(member).eval() for member in members]
        self.max_length = max_length
        self.batch_size = batch_size
        self._runners = [Runner(model) for model in self.models]
        self._visits = walk([member.sources for member in members])
        if not resumes_exactly(self._runners, self._visits, max_length):
            # Layers pass on more than what they return, so every member runs alone.
            self._visits = tuple(Visit(index) for index in range(len(members)))
        self._largest = max(self._runners, key=lambda runner: runner.num_layers)
        self._branch_limit = min(max_length, _smallest_window(self._largest.model))
        self._proven = 0
        on_cpu = self.models[0].device.type == "cpu"
        self._tokens = _TOKENS_ON_CPU if on_cpu else _TOKENS

    def run(self, requests: Sequence[Request]) -> Iterator[Scored]:
        """Score requests, the longest first, each for all models at once.

        Args:
            requests: Token ids of contexts and continuations. A context is cut from the left where
                both do not fit into `max_length`.

        Yields:
            Batches of scores, each as soon as it is computed; every request is in one of them.

        Raises:
            DataError: A context or continuation is empty, a continuation is too long, or a token
                has no row in the embedding.
        """
        tokens = (max((*context, *targets), default=0) for context, targets in requests)
        check_tokens(self._largest.model, max(tokens, default=0))
        pending = self._lay_out(requests)
        while pending:
            rows, rest = split(pending, self._tokens, self.batch_size)
            model = self._largest.model
            batch = make_batch(rows, model.device, model.dtype)
            try:
                scored = self._score(batch)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                scored = None
            # Not inside `except`, where the traceback still holds the failed call's tensors.
            if scored is None:
                # Later batches are no larger, so a size that fits once fits from then on.
                if self.batch_size is None:
                    self._tokens = batch.size // 2
                else:
                    self.batch_size = len(rows) // 2
                if torch.accelerator.is_available():
                    torch.accelerator.empty_cache()
                continue
            yield scored
            pending = rest

    def _lay_out(self, requests: Sequence[Request]) -> list[Row]:
        """Requests in rows, in the order of the work: without branches first, then by length."""
        width = self._largest.model.config.get_text_config().hidden_size
        lengths = {"max_length": self.max_length, "width": width}
        rows = lay_out(requests, branch_limit=self._branch_limit, **lengths)
        longest = max((row for row in rows if row.branched), key=len, default=None)
        if longest is not None and len(longest) > self._proven:
            self._proven = len(longest)
            made_up = branching_row(self._largest.head.vocab_size, self._branch_limit)
            if made_up is None or not all(
                keeps_branches_apart(self._largest, row) for row in (made_up, longest)
            ):
                self._branch_limit = 0
                rows = lay_out(requests, branch_limit=0, **lengths)
        return sorted(rows, key=lambda row: (row.branched, -len(row)))

    @torch.no_grad()
    def _score(self, batch: Batch) -> Scored:
        """Run all models on a batch."""
        shape = (len(self.models), len(batch.requests))
        log_likelihood, greedy = np.zeros(shape), np.ones(shape, dtype=bool)
        for index, states in final_states(self._runners, self._visits, batch.inputs):
            head = self._runners[index].head
            log_probs, largest = target_log_probs(
                head, batch.read(states), batch.rows, batch.targets, head.vocab_size
            )
            of = batch.request_of
            np.add.at(log_likelihood[index], of, log_probs.double().cpu().numpy())
            np.logical_and.at(greedy[index], of, largest.cpu().numpy())
        return Scored(batch.requests, log_likelihood, greedy)


def _smallest_window(model: PreTrainedModel) -> int:
    """The shortest sliding window of a layer; 0 where the config is not understood."""
    try:
        caches = layer_caches(model.config.to_dict())
    except BoomerangError:
        return 0
    return min(cache.window or _NO_WINDOW for cache in caches)


def target_log_probs(
    head: Callable[[Tensor], Tensor], states: Tensor, rows: Ints, targets: Ints, vocab: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of targets, by a log-softmax in fp32.

    Args:
        head: From states `[T, D]` to logits `[T, V]`; sees every row of `states` once.
        states: Final hidden states `[R, D]`.
        rows: Shape (K,), not decreasing: the state that predicts each target.
        targets: Shape (K,): token ids.
        vocab: V.

    Returns:
        The log-probabilities `[K]`, fp32, and whether each target is the first with the largest
        logit of its row, `[K]`, bool.
    """
    bound = _LOGITS_ON_CPU if states.device.type == "cpu" else _LOGITS
    size = max(1, bound // vocab)
    log_probs, greedy = [], []
    for start in range(0, len(states), size):
        logits = head(states[start : start + size]).float()
        first, end = np.searchsorted(rows, (start, start + size))
        row = torch.from_numpy(rows[first:end] - start).to(logits.device)
        target = torch.from_numpy(targets[first:end]).to(logits.device)
        largest = logits.amax(-1)
        chosen = logits[row, target]
        is_greedy = chosen == largest[row]
        # Among equal logits the first counts. Looking for it takes long, and hits are few.
        hits = is_greedy.nonzero()[:, 0]
        is_greedy[hits] = logits[row[hits]].argmax(-1) == target[hits]
        # In place: allocating memory of this size would take as long as the product.
        total = logits.sub_(largest[:, None]).exp_().sum(-1)
        log_probs.append(chosen - (largest + total.log())[row])
        greedy.append(is_greedy)
    return torch.cat(log_probs), torch.cat(greedy)


def check_finite(members: Sequence[Member], log_likelihood: NDArray[np.float64]) -> None:
    """Refuse log-likelihoods, shape (members, n), that are not finite.

    Raises:
        ResultsError: One is not; names the member.
    """
    finite = np.isfinite(log_likelihood).all(axis=1)
    if not finite.all():
        raise ResultsError(
            "the model gives log-likelihoods that are not finite",
            where=f"member {list(members[int(finite.argmin())].patched)}",
            fix="its weights are broken, or its dtype is too narrow (try float32)",
        )
