"""What combinations of a teacher's layers are like on calibration text, remembered by content."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..evaluate.batches import text_batches
from ..models.runner import LAST, Runner
from ..orders.divergence import predictions
from ..orders.similarity import cosine_sum
from ..text.windows import Text
from .combination import Plan, describe
from .combine import can_combine, combine
from .score_cache import Cache
from .shortgpt import block_influence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tokens that the similarity of a plan is measured on. The published search has five short texts,
# and asks for it hundreds of times.
_SIMILARITY_TOKENS = 2048


class PlanScores:
    """Scores of plans over one teacher on one calibration text.

    Influence and loss are measured on all of it, similarities on windows of about 2048 tokens in
    all, evenly spread over it.

    Args:
        teacher: In evaluation mode.
        text: Calibration text.
        teacher_hash: What stands for the teacher; equal for equal content only.
        cache: Where scores are remembered.
    """

    def __init__(
        self, teacher: PreTrainedModel, text: Text, *, teacher_hash: str, cache: Cache
    ) -> None:
        self.teacher = teacher
        self.text = text
        self._sample = sample(text, _SIMILARITY_TOKENS)
        self._cache = cache
        self._of = {
            "teacher": teacher_hash,
            "dtype": str(teacher.dtype).removeprefix("torch."),
        }
        self._final: list[torch.Tensor] | None = None

    def influence(self) -> list[float]:
        """Block influence of every teacher layer."""
        of = self._of | {"calibration": self.text.hash, "score": "block_influence"}
        return self._cache.get(of, lambda: block_influence(self.teacher, self.text))

    def similarity(self, plan: Plan) -> float | None:
        """Mean cosine between a plan's final hidden states and the teacher's.

        None where the layers cannot be combined, or the states are not finite.
        """
        of = self._key("similarity", self._sample, plan)
        return self._cache.get(of, lambda: self._similarity(plan))

    def loss(self, plan: Plan) -> float:
        """Mean negative log-likelihood of a token in nats; infinite where it is not finite."""
        of = self._key("loss", self.text, plan)
        value = self._cache.get(of, lambda: self._loss(plan))
        return math.inf if value is None else value

    def _key(self, score: str, text: Text, plan: Plan) -> dict[str, Any]:
        of = {"calibration": text.hash, "score": score, "layers": describe(plan)}
        return self._of | of

    @torch.no_grad()
    def _similarity(self, plan: Plan) -> float | None:
        if not can_combine(self.teacher, plan):
            return None
        if self._final is None:
            self._final = list(self._states(self.teacher))
        total, count = 0.0, 0
        for found, truth in zip(
            self._states(combine(self.teacher, plan)), self._final, strict=True
        ):
            total += cosine_sum(found, truth)
            count += len(truth)
        return total / count if math.isfinite(total) else None

    def _loss(self, plan: Plan) -> float | None:
        [prediction] = predictions([combine(self.teacher, plan)], self.text)
        return prediction.loss if math.isfinite(prediction.loss) else None

    def _states(self, model: PreTrainedModel) -> Iterator[torch.Tensor]:
        """A model's final states over the sample, `[R, D]` for each call."""
        runner = Runner(model)
        for batch in text_batches(self._sample, self.teacher):
            yield batch.read(runner.run(batch.inputs)[LAST])


def sample(text: Text, tokens: int) -> Text:
    """Windows evenly spread over a text, as many as bring about so many tokens; at least one."""
    wanted = min(1.0, tokens / sum(len(window.targets) for window in text.windows))
    count = max(1, round(wanted * len(text.windows)))
    chosen = [text.windows[i * len(text.windows) // count] for i in range(count)]
    return Text(tuple(chosen), text.num_bytes)
