"""What a run will take: parameters, tokens, operations, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from torch import nn

from ..models.modules import layer_stack
from ..units import show_bytes, show_count
from .flops import Matrices, flops_per_token
from .sharding import is_sharded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from .module import DistillModule

# Bytes of state for each trained parameter.
_OPTIMIZER_BYTES = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "stable_adamw"), 8),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), 2),
    "sgd": 0,
}

# fp32 tensors that hold a chunk of logits, student's, teacher's and gradient, at the same time.
_LOGITS = 4


@dataclass(frozen=True)
class ModelSize:
    """The size of a live model.

    Args:
        parameters: All of them; a tied matrix counts once.
        trained: Those that take a gradient.
        bytes: Of the weights.
        matrices: What decides how much a token costs.
    """

    parameters: int
    trained: int
    bytes: int
    matrices: Matrices

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """Count a model."""
        parameters = list(model.parameters())
        count = sum(p.numel() for p in parameters)
        config: Any = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", 0) or 0
        size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
        return cls(
            parameters=count,
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            bytes=sum(p.numel() * p.element_size() for p in parameters),
            matrices=Matrices(
                parameters=count - sum(table.weight.numel() for table in _tables(model)),
                num_layers=len(layer_stack(model)),
                attention_width=heads * size,
            ),
        )


@dataclass(frozen=True)
class Preflight:
    """A run before it starts.

    Args:
        student: The student.
        teacher: The teacher.
        rows: Rows in a step: micro-batch, accumulated micro-batches, processes.
        sequence_length: Tokens in a row.
        steps: Optimizer steps of the whole run.
        memory: Bytes that each process needs, by what for; the student's activations are not among
            them.
    """

    student: ModelSize
    teacher: ModelSize
    rows: tuple[int, int, int]
    sequence_length: int
    steps: int
    memory: dict[str, int]

    @classmethod
    def of(
        cls, module: DistillModule, args: TrainingArguments, sequence_length: int, steps: int
    ) -> Preflight:
        """Count what a run is made of."""
        student, teacher = ModelSize.of(module.student), ModelSize.of(module.teacher)
        rows = (args.train_batch_size, args.gradient_accumulation_steps, args.world_size)
        return cls(
            student,
            teacher,
            rows,
            sequence_length,
            steps,
            _memory(module, args, student, teacher, rows[0] * sequence_length),
        )

    @property
    def tokens(self) -> int:
        """Tokens of a step, padding included."""
        batch, accumulated, processes = self.rows
        return batch * accumulated * processes * self.sequence_length

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations for each of them."""
        return flops_per_token(self.student.matrices, self.teacher.matrices, self.sequence_length)

    def table(self) -> Table:
        """All of it as a table for people."""
        table = Table.grid(padding=(0, 2))
        table.add_row("teacher", _describe(self.teacher))
        table.add_row("student", _describe(self.student))
        words = ("rows", "micro-batches", "processes")
        factors = [f"{n} {word}" for n, word in zip(self.rows, words, strict=True) if n > 1]
        factors.append(f"{self.sequence_length:,}")
        table.add_row("step", f"{self.tokens:,} tokens: {' x '.join(factors)}")
        tokens = self.steps * self.tokens
        table.add_row(
            "run",
            f"{self.steps:,} steps, {show_count(tokens)} tokens, "
            f"{tokens * self.flops_per_token:.2e} FLOP ({self.flops_per_token:.2e} a token)",
        )
        parts = ", ".join(f"{name} {show_bytes(size)}" for name, size in self.memory.items())
        table.add_row(
            "memory",
            f"{show_bytes(sum(self.memory.values()))} and the student's activations, per process: "
            f"{parts}",
        )
        return table


def _describe(model: ModelSize) -> str:
    text = f"{model.matrices.num_layers} layers, {show_count(model.parameters)} parameters"
    frozen = model.parameters - model.trained
    if not model.trained:
        return f"{text}, frozen"
    return f"{text}, {show_count(model.trained)} trained, {show_count(frozen)} frozen"


def _memory(
    module: DistillModule,
    args: TrainingArguments,
    student: ModelSize,
    teacher: ModelSize,
    tokens: int,
) -> dict[str, int]:
    width: int = module.student.config.get_text_config().hidden_size
    parts = {"weights": student.bytes + teacher.bytes, "gradients": 4 * student.trained}
    optimizer = str(getattr(args.optim, "value", args.optim))
    if optimizer in _OPTIMIZER_BYTES:
        parts["optimizer state"] = _OPTIMIZER_BYTES[optimizer] * student.trained
    if is_sharded(module):
        parts = {name: size // args.world_size for name, size in parts.items()}
    if module.loss.alignment:
        pairs = len(module.layers.alignment)
        parts["boundary states"] = pairs * tokens * width * module.teacher.dtype.itemsize
    if module.loss.ce or module.loss.kl:
        # A chunk of logits is about as large as the hidden states.
        parts["logits"] = _LOGITS * 4 * tokens * width
    return parts


def _tables(model: PreTrainedModel) -> Iterator[Any]:
    """The tables that are only looked up, and no output matrix as well."""
    output: Any = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and (
            output is None or module.weight is not output.weight
        ):
            yield module
