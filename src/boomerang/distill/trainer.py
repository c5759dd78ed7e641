"""A `transformers.Trainer` for the distillation module, with all its callbacks and settings.

It adds three things: the division of a step's loss by the counts of the whole step (all
micro-batches, all processes), the single terms in the logs, and checkpoints that are plain
students.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from ..checkpoint.student_config import write_student_config
from ..errors import BoomerangError
from .data import Rows, collate
from .losses import IGNORED, Counts, shifted, weighted_loss
from .module import DistillModule, LossSums

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Each loss term of the logs: its sum over a stretch of training and what it is divided by.
Terms = dict[str, tuple[Tensor, Tensor]]


class DistillTrainer(Trainer):
    """Trains the student of a `DistillModule`.

    Args:
        module: Teacher and student; the teacher is moved to the training device.
        args: As for any Trainer.
        rows: What to train on.
        held_out: What to evaluate on, with `eval_strategy` or `evaluate()`.
        tokenizer: Saved beside the student.
        callbacks: As for any Trainer.

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
        tokenizer: PreTrainedTokenizerBase | None = None,
        callbacks: Iterable[TrainerCallback] = (),
    ) -> None:
        if args.n_gpu > 1:
            raise BoomerangError(
                f"one process sees {args.n_gpu} GPUs",
                fix="start a process for each with torchrun, or set CUDA_VISIBLE_DEVICES to one",
            )
        self.module = module
        nn.Module.to(module.teacher, args.device)
        super().__init__(
            model=module,
            args=args,
            data_collator=collate,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.model_accepts_loss_kwargs = True
        # It prints to standard output, which is for results.
        self.remove_callback(PrinterCallback)
        self._terms: Terms = {}
        self._tokens: Tensor | int = 0
        self._since = time.perf_counter()

    # One step: count first, then divide every micro-batch by the counts of all of them.

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of a step and what divides their losses: targets, real tokens."""
        batches = list(islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
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
        own = Counts(sums["ce_count"], sums["kl_count"], sums["alignment_count"])
        if self.module.mode == "clean" and isinstance(num_items_in_batch, Tensor):
            targets, tokens = num_items_in_batch
            counts, share = Counts(targets, targets, tokens), self.accelerator.num_processes
        else:
            counts, share = own, 1
        loss = weighted_loss(sums["ce"], sums["kl"], sums["alignment"], counts, self.module.loss)
        if model.training:
            _add(self._terms, self._named(sums, own))
        # The gradient is averaged over processes, but the counts are those of all of them.
        loss = loss * share
        return (loss, sums) if return_outputs else loss

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms since the last time, and the speed."""
        if "loss" in logs:
            now = time.perf_counter()
            logs = {
                **logs,
                **self._means(self._terms),
                "tokens_per_second": int(self._tokens) / (now - self._since),
            }
            self._terms, self._tokens, self._since = {}, 0, now
        super().log(logs, start_time)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`."""
        self._terms, self._tokens, self._since = {}, 0, time.perf_counter()
        return super().train(*args, **kwargs)

    def _named(self, sums: LossSums, counts: Counts) -> Terms:
        """The terms by their names in the logs: members on switch points apart from the student."""
        route = self.module.route(self.state.global_step)
        suffix = "" if route.name == "student" else f"_{route.name}"
        terms: Terms = {}
        weights = self.module.loss
        if weights.ce:
            terms[f"ce{suffix}"] = (sums["ce"].detach(), counts.ce)
        if weights.kl:
            terms[f"kl{suffix}"] = (sums["kl"].detach(), counts.kl)
        if weights.alignment:
            values = sums["alignment"].detach()
            for pair in route.pairs:
                terms[f"alignment/{pair}"] = (values[pair], counts.alignment)
        return terms

    def _means(self, terms: Terms) -> dict[str, float]:
        """One number for each term, over all processes; `alignment` is the mean over the pairs."""
        if not terms:
            return {}
        pairs = torch.stack([torch.stack([s.double(), n.double()]) for s, n in terms.values()])
        totals = self._sum_over_processes(pairs).tolist()
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
        """The plain student's loss and its terms on held-out rows, over all targets at once."""
        began = time.perf_counter()
        self.module.eval()
        terms: Terms = {}
        with torch.no_grad():
            for inputs in self.get_eval_dataloader(eval_dataset):
                sums = self.module(**self._prepare_inputs(inputs))
                own = Counts(sums["ce_count"], sums["kl_count"], sums["alignment_count"])
                _add(terms, self._named(sums, own))
        means = self._means(terms)
        weights = self.module.loss
        loss = sum(
            weight * means.get(name, 0.0)
            for name, weight in (
                ("ce", weights.ce),
                ("kl", weights.kl),
                ("alignment", weights.alignment),
            )
        )
        metrics = {
            f"{metric_key_prefix}_{name}": value for name, value in {"loss": loss, **means}.items()
        }
        # Training did not go on meanwhile.
        self._since += time.perf_counter() - began
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    # Checkpoints: students that any tool opens

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        if self.args.should_save:
            self.save_student(Path(output_dir or str(self.args.output_dir)))

    def save_student(self, directory: Path) -> None:
        """Write the student as a plain checkpoint, with tokenizer and `student_config.json`."""
        self.module.student.save_pretrained(directory)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(directory)
        write_student_config(directory, self.module.layers)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        student = self.module.student
        # By its own class, so that one that came with its checkpoint need not be trusted again.
        saved = type(student).from_pretrained(
            resume_from_checkpoint, dtype=student.dtype, use_safetensors=True, local_files_only=True
        )
        student.load_state_dict(saved.state_dict())

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)


def _count(batch: dict[str, Tensor]) -> Tensor:
    targets = (shifted(batch["labels"]) != IGNORED).sum()
    mask = batch.get("attention_mask")
    tokens = torch.tensor(batch["input_ids"].numel()) if mask is None else mask.sum()
    return torch.stack([targets, tokens.to(targets.device)])


def _add(total: Terms, more: Terms) -> None:
    for name, (value, count) in more.items():
        old = total.get(name)
        total[name] = (value, count) if old is None else (old[0] + value, old[1] + count)
