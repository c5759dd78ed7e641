"""What a run will take: parameters, tokens, operations, memory.

Operations are counted as in PaLM (Chowdhery et al., arXiv 2204.02311, appendix B): training on a
token takes 6N + 12·L·H·Q·T, a third of them forward and two thirds backward. Every row counts as
full, every token attends to all T tokens of its row, and nothing is recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..units import show_bytes, show_count

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedModel, TrainingArguments

    from .module import DistillModule

# Bytes of optimizer state for each trained parameter.
_OPTIMIZER_BYTES = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "stable_adamw"), 8),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), 2),
    "sgd": 0,
}
# fp32 tensors that hold a chunk of logits at the same time: student's, teacher's and gradient.
_LOGITS = 4


@dataclass(frozen=True)
class Matrices:
    """The parts of a model that decide how much a token costs.

    Args:
        parameters: N, without tables that are only looked up. A tied embedding counts, as the
            head. In a mixture of experts, all experts count.
        num_layers: L.
        attention_width: H·Q, the heads times the size of a head; 0 without attention.
    """

    parameters: int
    num_layers: int
    attention_width: int


def attention_width(text_config: Mapping[str, Any]) -> int:
    """The heads times the size of a head, from a text config; 0 where it does not tell.

    GPT-2's config has names of its own for the two.
    """
    heads = text_config.get("num_attention_heads") or text_config.get("n_head") or 0
    width = text_config.get("hidden_size") or text_config.get("n_embd") or 0
    size = text_config.get("head_dim") or (width // heads if heads else 0)
    return int(heads * size)


def forward_flops_per_token(model: Matrices, sequence_length: int) -> int:
    """2N + 4·L·H·Q·T: a multiplication and an addition for each parameter, and the attention."""
    attention = model.num_layers * model.attention_width * sequence_length
    return 2 * model.parameters + 4 * attention


def flops_per_token(student: Matrices, teacher: Matrices, sequence_length: int) -> int:
    """Operations of distillation for a token: the student is trained, the teacher runs forward.

    Without the losses. Switched, mirrored and frozen parts count as if they were trained.
    """
    trained = 3 * forward_flops_per_token(student, sequence_length)
    return trained + forward_flops_per_token(teacher, sequence_length)


@dataclass(frozen=True)
class ModelSize:
    """The size of a live model; a tied matrix counts once.

    Args:
        parameters: All parameters.
        trained: Those that take a gradient.
        bytes: Bytes of the weights.
        matrices: What decides how much a token costs.
    """

    parameters: int
    trained: int
    bytes: int
    matrices: Matrices

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """Count a model."""
        from torch.nn import Embedding

        from ..models.parts import layer_stack

        parameters = list(model.parameters())
        count = sum(p.numel() for p in parameters)
        output: Any = model.get_output_embeddings()
        head = None if output is None else output.weight
        tables = [m.weight for m in model.modules() if isinstance(m, Embedding)]
        looked_up = sum(table.numel() for table in tables if table is not head)
        config: Any = model.config.get_text_config()
        return cls(
            parameters=count,
            trained=sum(p.numel() for p in parameters if p.requires_grad),
            bytes=sum(p.numel() * p.element_size() for p in parameters),
            matrices=Matrices(
                count - looked_up, len(layer_stack(model)), attention_width(config.to_dict())
            ),
        )

    def __str__(self) -> str:
        text = f"{self.matrices.num_layers} layers, {show_count(self.parameters)} parameters"
        if not self.trained:
            return f"{text}, frozen"
        frozen = show_count(self.parameters - self.trained)
        return f"{text}, {show_count(self.trained)} trained, {frozen} frozen"


@dataclass(frozen=True)
class Preflight:
    """A run before it starts.

    Args:
        student: The student.
        teacher: The teacher.
        rows: Rows in a step: micro-batch, accumulated micro-batches, processes.
        sequence_length: Tokens in a row.
        steps: Optimizer steps of the whole run.
        memory: Bytes that each process needs by purpose, without the student's activations.
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
        memory = _memory(module, args, student, teacher, rows[0] * sequence_length)
        return cls(student, teacher, rows, sequence_length, steps, memory)

    @property
    def tokens(self) -> int:
        """Tokens of a step, padding included."""
        batch, accumulated, processes = self.rows
        return batch * accumulated * processes * self.sequence_length

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations for each token."""
        return flops_per_token(self.student.matrices, self.teacher.matrices, self.sequence_length)

    def table(self) -> Table:
        """All of it as a table for people."""
        from rich.table import Table

        words = ("rows", "micro-batches", "processes")
        factors = [f"{n} {word}" for n, word in zip(self.rows, words, strict=True) if n > 1]
        factors.append(f"{self.sequence_length:,}")
        tokens = self.steps * self.tokens
        parts = ", ".join(f"{name} {show_bytes(size)}" for name, size in self.memory.items())
        table = Table.grid(padding=(0, 2))
        table.add_row("teacher", str(self.teacher))
        table.add_row("student", str(self.student))
        table.add_row("step", f"{self.tokens:,} tokens: {' x '.join(factors)}")
        table.add_row(
            "run",
            f"{self.steps:,} steps, {show_count(tokens)} tokens, "
            f"{tokens * self.flops_per_token:.2e} FLOP ({self.flops_per_token:.2e} a token)",
        )
        table.add_row(
            "memory",
            f"{show_bytes(sum(self.memory.values()))} and the student's activations, per process: "
            f"{parts}",
        )
        return table


def _memory(
    module: DistillModule,
    args: TrainingArguments,
    student: ModelSize,
    teacher: ModelSize,
    tokens: int,
) -> dict[str, int]:
    from .sharding import is_sharded

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
