"""A `transformers.Trainer` for the distillation module, with all its callbacks and settings.

It divides a step's loss by the counts of the whole step (all micro-batches, all processes), logs
the single terms, looks at each step before it is applied, and evaluates members in place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NoReturn, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ..errors import BoomerangError, TrainingError
from ..text.rows import Phase, PhasedSampler, Rows, collate, count_tokens
from .checkpoints import CheckpointingTrainer
from .finite_steps import NumberedRows, StepGuard, collate_numbered
from .losses import IGNORED, Counts, shifted, weighted_loss
from .module import DistillModule, LossSums
from .sharding import local

# Each loss term of the logs: its sum over a stretch of training and what that is divided by, `[2]`.
Terms = dict[str, Tensor]

# The largest cross-entropy whose perplexity is still a number.
_LARGEST = 700.0


class DistillTrainer(CheckpointingTrainer):
    """Trains the student of a `DistillModule`.

    Args:
        module: Teacher and student, moved to the training device unless they are sharded.
        args: As for any Trainer.
        rows: What to train on.
        held_out: What to evaluate on, with `eval_strategy` or `evaluate()`.
        callbacks: As for any Trainer.
        members: Members to evaluate besides the student: by their number of patched blocks, the
            student layers that are patched.
        phases: What the rows are made of where they are not seen in one mix; see `PhasedSampler`.

    Raises:
        BoomerangError: One process sees several GPUs.
    """

    # `compute_loss` divides by the counts of the step, so Trainer must not divide again. The class
    # attribute says so since transformers 5.2x, the instance attribute below did before.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        module: DistillModule,
        args: TrainingArguments,
        rows: Rows,
        held_out: Rows | None = None,
        callbacks: Iterable[TrainerCallback] = (),
        members: Mapping[int, tuple[int, ...]] | None = None,
        phases: Sequence[Phase] = (),
    ) -> None:
        if args.n_gpu > 1:
            raise BoomerangError(
                f"one process sees {args.n_gpu} GPUs",
                fix="start a process for each with torchrun, or set CUDA_VISIBLE_DEVICES to one",
            )
        self.module = module
        self.members = dict(members or {})
        self.phases = tuple(phases)
        weights = {name: getattr(module.loss, name) for name in ("ce", "kl", "alignment")}
        self._weights: dict[str, float] = {name: w for name, w in weights.items() if w}
        if not self.sharded:
            nn.Module.to(module.teacher, args.device)
        super().__init__(
            model=module,
            args=args,
            data_collator=collate_numbered,
            train_dataset=NumberedRows(rows),
            eval_dataset=held_out,
            callbacks=list(callbacks),
        )
        self.model_accepts_loss_kwargs = True
        # The trainer itself uses the column that forward does not take: the rows' numbers.
        args.remove_unused_columns = False
        if args.torch_compile:
            module.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        if self.sharded:
            # Sharding sums the gradients itself: accelerate adds mixed precision, and no wrapper.
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)
        # It prints to standard output, which is for results.
        self.remove_callback(PrinterCallback)
        self._guard = StepGuard()
        self._terms: Terms = {}
        self._tokens: Tensor | int = 0
        self._since: float | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if not self.phases:
            return super()._get_train_sampler(train_dataset)
        args = self.args
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        return PhasedSampler(self.phases, args.max_steps * rows, seed)

    # One step: count first, then divide every micro-batch by the counts of all of them.

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of a step, and its numbers of targets and of real tokens."""
        self._since = self._since or time.perf_counter()
        batches = list(islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        self._guard.begin(batches)
        counts = torch.stack([_count(batch) for batch in batches]).sum(0).to(device)
        counts = self._sum_over_processes(counts)
        self._tokens = self._tokens + counts[1]
        return batches, counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, LossSums]:
        """The share of a micro-batch in the loss of its step."""
        sums = cast(LossSums, model(**inputs, step=self.state.global_step))
        if self.module.mode == "clean" and isinstance(num_items_in_batch, Tensor):
            targets, tokens = num_items_in_batch
            counts, share = Counts(targets, targets, tokens), self.accelerator.num_processes
        else:
            counts, share = _counts(sums), 1
        loss = weighted_loss(sums["prediction"], sums["alignment"], counts, self.module.loss)
        if model.training:
            _add(self._terms, self._named(sums))
            self._guard.add(loss)
        # The gradient is averaged over processes, but the counts are those of all of them.
        loss = loss * share
        return (loss, sums) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As in Trainer, which asks for it once a step and applies the step next."""
        norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        # The loss scaling of fp16 expects infinite gradients, and skips such a step.
        problem = self._guard.problem(None if self.accelerator.scaler is not None else norm)
        if self._anywhere(problem is not None):
            self._refuse(next(filter(None, gather_object([problem]))))
        return norm

    def _refuse(self, problem: str) -> NoReturn:
        step = self.state.global_step
        broken = any(not part.isfinite().all() for part in map(local, self.module.parameters()))
        fix = "nothing of the step was applied"
        if step and not self._anywhere(broken):
            fix += (
                f", the state before it is {self.save_state()}: go on from there with other "
                "settings, as the `student` of a new recipe"
            )
        raise TrainingError(problem, where=f"step {step + 1}", fix=fix)

    def _anywhere(self, here: bool) -> bool:
        """Whether something holds in any of the processes."""
        flag = torch.tensor(int(here), device=self.args.device)
        return bool(self._sum_over_processes(flag))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms since the last time, and the speed."""
        if "loss" in logs:
            now = time.perf_counter()
            seconds = max(now - (self._since or now), 1e-9)
            speed = int(self._tokens) / seconds
            logs = {**logs, **self._means(self._terms), "tokens_per_second": speed}
            self._terms, self._tokens, self._since = {}, 0, now
        super().log(logs, start_time)

    def _named(self, sums: LossSums) -> Terms:
        """The terms by their names in the logs: members on switch points apart from the student."""
        route = self.module.route(self.state.global_step)
        suffix = "" if route.name == "student" else f"_{route.name}"
        terms: Terms = {}
        if "ce" in self._weights:
            terms[f"ce{suffix}"] = _term(sums["ce"], sums["ce_count"])
        if "kl" in self._weights:
            terms[f"kl{suffix}"] = _term(sums["kl"], sums["kl_count"])
        if "alignment" in self._weights:
            for pair in route.pairs:
                terms[f"alignment/{pair}"] = _term(sums["alignment"][pair], sums["alignment_count"])
        return terms

    def _means(self, terms: Terms) -> dict[str, float]:
        """One number for each term, over all processes; `alignment` is the mean over the pairs."""
        if not terms:
            return {}
        totals = self._sum_over_processes(torch.stack(list(terms.values()))).tolist()
        means = {name: s / max(n, 1) for name, (s, n) in zip(terms, totals, strict=True)}
        by_pair = {name: mean for name, mean in means.items() if "/" in name}
        whole = {name: mean for name, mean in means.items() if "/" not in name}
        if by_pair:
            whole["alignment"] = sum(by_pair.values()) / len(by_pair)
        return {**whole, **by_pair}

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.gather(values[None])).sum(0)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """On held-out rows the student's loss with its terms, and perplexities.

        Over all targets at once, each counted once however many processes there are.
        `eval_perplexity` is the student's, `eval_perplexity_patch_3` that of the member with three
        patched blocks.
        """
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        began = time.perf_counter()
        self.module.eval()
        terms: Terms = {}
        predictions: Terms = {}
        # Training draws the same random numbers whether or not it was looked at in between.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for batch, share in self._held_out_batches(rows):
                inputs = self._prepare_inputs(batch)
                sums = self.module(**inputs)
                _add(terms, self._named(sums), share)
                _add(predictions, self._predictions(inputs, sums), share)
        means = self._means(terms) | {
            name: math.exp(min(mean, _LARGEST)) for name, mean in self._means(predictions).items()
        }
        loss = sum(weight * means.get(name, 0.0) for name, weight in self._weights.items())
        metrics = {
            f"{metric_key_prefix}_{name}": value for name, value in {"loss": loss, **means}.items()
        }
        # Training did not go on meanwhile.
        if self._since is not None:
            self._since += time.perf_counter() - began
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _held_out_batches(self, rows: Rows) -> Iterator[tuple[dict[str, Tensor], int]]:
        """This process's batches, each with 1; as many in each process.

        Sharded models need all processes in each pass: one that has no row left runs the first row
        again, with 0.
        """
        args = self.args
        for first in range(0, len(rows), args.eval_batch_size * args.world_size):
            begin = first + args.process_index * args.eval_batch_size
            numbers = range(begin, min(begin + args.eval_batch_size, len(rows)))
            yield collate([rows[number] for number in numbers or (0,)]), int(bool(numbers))

    @property
    def metric_names(self) -> list[str]:
        """What `evaluate` measures, without the prefix."""
        pairs = range(len(self.module.layers.alignment) if "alignment" in self._weights else 0)
        return [
            "loss",
            *self._weights,
            *(f"alignment/{pair}" for pair in pairs),
            "perplexity",
            *(f"perplexity_patch_{patch}" for patch in self.members),
        ]

    def _predictions(self, inputs: dict[str, Any], sums: LossSums) -> Terms:
        """The cross-entropy of the student and of the members, for their perplexity."""
        student = sums if "ce" in self._weights else self.module(**inputs, patched=())
        found = {"perplexity": student} | {
            f"perplexity_patch_{patch}": self.module(**inputs, patched=patched)
            for patch, patched in self.members.items()
        }
        return {name: _term(sums["ce"], sums["ce_count"]) for name, sums in found.items()}


def _count(batch: dict[str, Tensor]) -> Tensor:
    targets = (shifted(batch["labels"]) != IGNORED).sum()
    return torch.stack([targets, count_tokens(batch).to(targets.device)])


def _counts(sums: LossSums) -> Counts:
    return Counts(sums["ce_count"], sums["kl_count"], sums["alignment_count"])


def _term(value: Tensor, count: Tensor) -> Tensor:
    return torch.stack([value.detach().double(), count.double()])


def _add(total: Terms, more: Terms, factor: int = 1) -> None:
    for name, term in more.items():
        total[name] = total.get(name, 0) + factor * term
