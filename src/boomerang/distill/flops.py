"""How many floating-point operations a token of training takes; plain arithmetic.

The count is that of PaLM (Chowdhery et al., arXiv 2204.02311, appendix B): a token takes
6N + 12·L·H·Q·T operations to train on, a third of them forward, two thirds backward. It is the
usual measure of utilisation, and counts what the mathematics asks for: every row is full, every
token attends to all T of its row though half of them are masked, and nothing is recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrices:
    """What of a model decides how much a token costs.

    Args:
        parameters: N, the numbers that each token is multiplied with: all but the embedding
            table, which is only looked up; a tied one counts, as the head. Of a mixture of experts,
            those a token does not pass count, too.
        num_layers: L.
        attention_width: H·Q, the heads times the size of a head; 0 without attention.
    """

    parameters: int
    num_layers: int
    attention_width: int


def forward_flops_per_token(model: Matrices, sequence_length: int) -> int:
    """2N + 4·L·H·Q·T: a multiplication and an addition for each parameter, and the attention.

    Args:
        model: The model.
        sequence_length: T, tokens in a row.
    """
    attention = model.num_layers * model.attention_width * sequence_length
    return 2 * model.parameters + 4 * attention


def flops_per_token(student: Matrices, teacher: Matrices, sequence_length: int) -> int:
    """What distillation takes for a token: the student is trained, the teacher runs forward.

    The losses themselves are not counted, nor that switched and mirrored batches run fewer or other
    layers; frozen parts count as if they were trained.

    Args:
        student: The student.
        teacher: The teacher.
        sequence_length: T, tokens in a row.
    """
    trained = 3 * forward_flops_per_token(student, sequence_length)
    return trained + forward_flops_per_token(teacher, sequence_length)
