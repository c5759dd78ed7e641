"""What training-free pruners share: models of combined teacher layers, and their scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..checkpoint.loading import check_tokens
from ..checkpoint.lock import locked
from ..checkpoint.output import check_apart
from ..errors import ArchitectureError, DataError, ResultsError
from ..evaluate.batches import text_batches
from ..evaluate.parallel import is_first
from ..evaluate.perplexity import fit_window
from ..evaluate.results import Row, append_lines, read_lines
from ..hashing import short_hash
from ..models.assembly import assemble, check_layers_can_move
from ..models.parts import layer_stack
from ..models.runner import LAST, Runner
from ..orders.divergence import predictions
from ..orders.similarity import cosine_sum
from ..text.documents import read_documents
from ..text.windows import Text, prepare
from .bench import Bench, Standalone, save_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CACHE_FILE = "baselines.jsonl"

# Tokens that the similarity of a plan is measured on. The published search has five short texts,
# and asks for it hundreds of times.
_SIMILARITY_TOKENS = 2048


@dataclass(frozen=True)
class Combination:
    """A layer whose weights are a combination of the teacher's layers.

    Args:
        base: The teacher layer in whose place it stands, and whose other attributes it has.
        terms: Pairs (teacher layer, coefficient), by layer; no coefficient is 0.
    """

    base: int
    terms: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layer: int) -> Combination:
        """The teacher layer itself."""
        return cls(layer, ((layer, 1),))


Plan = tuple[Combination, ...]
"""The layers of a model, their bases increasing."""


def keep(layers: Iterable[int]) -> Plan:
    """The model of some of the teacher's layers, as they are."""
    return tuple(Combination.of(layer) for layer in sorted(layers))


def describe(plan: Plan) -> list[list[object]]:
    """A plan as JSON values: for each layer its base and its terms."""
    return [[layer.base, [list(term) for term in layer.terms]] for layer in plan]


def combine(teacher: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A model of a plan's layers, of the teacher's class; the teacher is left as it is.

    Layers that are one of the teacher's share its tensors; sums are computed in fp32 and rounded
    to the teacher's dtype.

    Raises:
        ArchitectureError: The layers of a sum have no common shape, or tensors that cannot be
            added; or a layer depends on its position.
        ConfigError: The config cannot be carried over to these layers.
    """
    bases = [layer.base for layer in plan]
    sources = [(teacher, base) for base in bases]
    model = assemble(teacher, sources, bases, embedding=teacher, head=teacher)
    if len(plan) < len(layer_stack(teacher)):
        check_layers_can_move(model)
    stack = layer_stack(teacher)
    for layer, combination in zip(layer_stack(model), plan, strict=True):
        if combination != Combination.of(combination.base):
            _set_tensors(layer, _sums(stack, combination))
    return model


def can_combine(teacher: PreTrainedModel, plan: Plan) -> bool:
    """Whether the layers of each sum of a plan have tensors of the same names and shapes."""
    return all(_same_shapes(layer_stack(teacher), combination) for combination in plan)


def _same_shapes(stack: nn.ModuleList, combination: Combination) -> bool:
    def shapes(layer: int) -> dict[str, torch.Size]:
        return {n: t.shape for n, t in stack[layer].state_dict(keep_vars=True).items()}

    return all(shapes(layer) == shapes(combination.base) for layer, _ in combination.terms)


@torch.no_grad()
def _sums(stack: nn.ModuleList, combination: Combination) -> dict[str, Tensor]:
    where = f"layer {combination.base}"
    if not _same_shapes(stack, combination):
        raise ArchitectureError("has other shapes than the layers merged into it", where=where)
    states = [(stack[layer].state_dict(keep_vars=True), c) for layer, c in combination.terms]
    result = dict(states[0][0])
    if [factor for _, factor in states] == [1]:
        return result
    for name, first in result.items():
        terms = [(state[name], factor) for state, factor in states]
        if any(not tensor.is_floating_point() or tensor.is_meta for tensor, _ in terms):
            raise ArchitectureError(
                f"{name} cannot be added",
                where=where,
                fix="give a teacher that is neither quantised nor offloaded",
            )
        total = torch.zeros_like(first, dtype=torch.promote_types(first.dtype, torch.float32))
        for tensor, factor in terms:
            total.add_(tensor.to(total.device, total.dtype), alpha=factor)
        result[name] = total.to(first.dtype)
    return result


def _set_tensors(layer: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a layer tensors of its own; modules that share its old ones keep those."""
    for path, tensor in tensors.items():
        parent, _, name = path.rpartition(".")
        module = layer.get_submodule(parent)
        if name in module._buffers:
            module._buffers[name] = tensor.detach()
        else:
            parameter = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor)
            module._parameters[name] = parameter


class Cache:
    """Scores by what they are scores of, in a file: one JSON line each, written as it is found.

    Args:
        path: The file; None to remember in memory alone.

    Raises:
        ResultsError: The file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        for number, line in read_lines(path) if path is not None and path.exists() else ():
            if not isinstance(line, dict) or line.keys() != {"of", "value"}:
                raise ResultsError("is no score", where=f"{path} line {number}")
            self._values[json.dumps(line["of"], sort_keys=True)] = line["value"]

    def get(self, of: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """A score, computed if it is not known.

        Args:
            of: All that the score depends on, as JSON values.
            compute: Gives the score, a JSON value without NaN or infinity.
        """
        key = json.dumps(of, sort_keys=True)
        if key not in self._values:
            value = compute()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_lines(self._path, [{"of": of, "value": value}])
            self._values[key] = value
        return self._values[key]


class PlanScores:
    """Scores of plans over one teacher on one calibration text.

    Similarities are measured on windows of about 2048 tokens in all, evenly spread over the text,
    everything else on all of it.

    Args:
        teacher: In evaluation mode.
        text: Calibration text.
        teacher_hash: Equal for equal teachers only.
        cache: Where scores are remembered.
    """

    def __init__(
        self, teacher: PreTrainedModel, text: Text, *, teacher_hash: str, cache: Cache
    ) -> None:
        self.teacher, self.text, self.teacher_hash = teacher, text, teacher_hash
        self._sample, self._cache = sample(text, _SIMILARITY_TOKENS), cache
        self._final: list[Tensor] | None = None

    def of_teacher(self, score: str, compute: Callable[[PreTrainedModel, Text], Any]) -> Any:
        """A score of the teacher itself, a JSON value; `score` is its name."""
        return self._get(score, self.text, {}, lambda: compute(self.teacher, self.text))

    def similarity(self, plan: Plan) -> float | None:
        """Mean cosine between a plan's final hidden states and the teacher's.

        None where the layers cannot be combined, or the states are not finite.
        """
        of = {"layers": describe(plan)}
        value: float | None = self._get(
            "similarity", self._sample, of, lambda: self._similarity(plan)
        )
        return value

    def loss(self, plan: Plan) -> float:
        """Mean negative log-likelihood of a token in nats; infinite where it is not finite."""
        of = {"layers": describe(plan)}
        value = self._get("loss", self.text, of, lambda: self._loss(plan))
        return math.inf if value is None else value

    def model(self, series: str, plan: Plan, about: dict[str, object]) -> Standalone:
        """A plan's model, made when it is measured; `about` is for its record on disk."""
        return Standalone(
            series=series,
            num_layers=len(plan),
            hash=short_hash(f"{self.teacher_hash} {series} {plan!r}"),
            build=partial(combine, self.teacher, plan),
            about={"layers": describe(plan), **about},
        )

    def _get(self, score: str, text: Text, more: dict[str, Any], compute: Callable[[], Any]) -> Any:
        of = {"teacher": self.teacher_hash, "dtype": str(self.teacher.dtype).removeprefix("torch.")}
        return self._cache.get(of | {"calibration": text.hash, "score": score} | more, compute)

    @torch.no_grad()
    def _similarity(self, plan: Plan) -> float | None:
        if not can_combine(self.teacher, plan):
            return None
        if self._final is None:
            self._final = list(self._states(self.teacher))
        states = self._states(combine(self.teacher, plan))
        total = sum(cosine_sum(*pair) for pair in zip(states, self._final, strict=True))
        count = sum(map(len, self._final))
        return total / count if math.isfinite(total) else None

    def _loss(self, plan: Plan) -> float | None:
        [prediction] = predictions([combine(self.teacher, plan)], self.text)
        return prediction.loss if math.isfinite(prediction.loss) else None

    def _states(self, model: PreTrainedModel) -> Iterator[Tensor]:
        """A model's final states over the sample, `[R, D]` for each call."""
        runner = Runner(model)
        for batch in text_batches(self._sample, self.teacher):
            yield batch.read(runner.run(batch.inputs)[LAST])


def sample(text: Text, tokens: int) -> Text:
    """Windows evenly spread over a text, of about so many tokens; at least one."""
    wanted = min(1.0, tokens / sum(len(window.targets) for window in text.windows))
    count = max(1, round(wanted * len(text.windows)))
    chosen = [text.windows[i * len(text.windows) // count] for i in range(count)]
    return Text(tuple(chosen), text.num_bytes)


def calibration_text(
    paths: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel
) -> Text:
    """Text to calibrate on: documents in windows of at most 2048 tokens that do not overlap.

    Raises:
        DataError: A file cannot be read or is empty, or a token has no row in the embedding.
    """
    window = fit_window(teacher.config)
    text = prepare(read_documents(paths), tokenizer, window=window, stride=window)
    check_tokens(teacher, text.largest_token)
    return text


def run_pruner(
    models: Callable[[PlanScores, Sequence[int]], list[Standalone]],
    bench: Bench,
    results: Path,
    *,
    calibration: Sequence[str | Path] | None,
    layers: Sequence[int] | None = None,
    save: Path | None = None,
    **settings: Any,
) -> list[Row]:
    """Measure the models that a pruner makes of the teacher.

    Args:
        models: The pruner.
        bench: As in `naive.run`, like `results`, `layers` and the settings.
        results: The directory of results.
        calibration: UTF-8 text files to calibrate on.
        layers: The sizes.
        save: A directory that the models are also written into, as checkpoints.
        **settings: What to measure on.

    Raises:
        BoomerangError: As in `boomerang.evaluate`.
    """
    if not calibration:
        raise DataError("there is nothing to calibrate on", fix="give --calibration FILE")
    sizes, teacher = bench.sizes(layers), bench.sources.teacher
    if save is not None:
        check_apart(save / "model", *bench.sources.directories)
    text = calibration_text(calibration, teacher.tokenizer, bench.model)
    with locked(results, when=is_first()):
        bench.check(results, **settings)
        cache = Cache(results / CACHE_FILE)
        scores = PlanScores(bench.model, text, teacher_hash=teacher.content_hash, cache=cache)
        found = models(scores, sizes)
        if save is not None:
            for each in found:
                save_model(each, save, teacher)
        return bench.measure(found, results, **settings)
