"""Checks of what no config says for certain, with a few tokens.

One is whether a model uses the mask and positions that it is given: some models take positions from
where a token stands, some have a recurrent state. The other is whether its layers pass on nothing
but what they return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..models.runner import LAST, Runner
from .batches import make_batch
from .request_rows import Row, lay_out
from .shared_layers import Visit, final_states

_LENGTH = 8
_BRANCHES = 4

# Above rounding (also in TF32, which fp32 may mean), far below the effect of a wrong position or a
# wrong neighbour.
_TOLERANCE_FP32 = 1e-3
_TOLERANCE = 0.05

_ANY_WIDTH = 1 << 30


def branching_row(vocab: int, limit: int) -> Row | None:
    """A row of random tokens whose last branch stands far from where it would alone.

    Args:
        vocab: The number of token ids.
        limit: The most positions of a sequence in a row with branches.

    Returns:
        The row, or None where the limit leaves no room for branches.
    """
    length = min(_LENGTH, limit // 2)
    if length < 1:
        return None
    start, *branches = _tokens(vocab, (1 + _BRANCHES, length + 1)).tolist()
    (row,) = lay_out(
        [(start[:length], branch) for branch in branches],
        max_length=2 * length,
        branch_limit=limit,
        width=_ANY_WIDTH,
    )
    return row


@torch.no_grad()
def keeps_branches_apart(runner: Runner, row: Row) -> bool:
    """Whether a row's last branch gets the logits that it gets alone, up to rounding.

    Args:
        runner: The model; one with every kind of layer.
        row: A row with branches.
    """
    read = row.reads[-1]
    end = read.places[-1]
    path = np.flatnonzero(row.ends[: end + 1] > end)
    ends = np.full(len(path), len(path))
    own = replace(read, places=np.arange(len(path))[-len(read.places) :])
    alone = Row(row.tokens[path], np.arange(len(path)), ends, (own,))
    expected = _logits(runner, alone)
    try:
        found = _logits(runner, replace(row, reads=(read,)))
    except Exception:  # models that cannot take such a mask fail in as many ways as there are
        return False
    return _agree(_centred(found), _centred(expected), runner.model.dtype)


@torch.no_grad()
def resumes_exactly(runners: Sequence[Runner], visits: Sequence[Visit], limit: int) -> bool:
    """Whether a model whose first layers are given, not run, ends in the same states.

    Args:
        runners: The models.
        visits: The walk; the visit that skips most layers is tried.
        limit: The most positions of a sequence.
    """
    order = max(range(len(visits)), key=lambda i: visits[i].skip)
    visit = visits[order]
    if not visit.skip:
        return True
    giver = next(v for v in reversed(visits[:order]) if visit.skip in v.keep)
    alone = [
        Visit(giver.path, keep=frozenset({visit.skip})),
        replace(visit, keep=frozenset(), last=True),
        Visit(visit.path),
    ]
    runner = runners[visit.path]
    ids = _tokens(runner.head.vocab_size, (1, min(2 * _LENGTH, limit)))
    inputs = {"input_ids": ids.to(runner.model.device)}
    _, (_, found), (_, expected) = final_states(runners, alone, inputs)
    return _agree(found, expected, runner.model.dtype)


def _logits(runner: Runner, row: Row) -> Tensor:
    """The logits that predict the targets of a row's only request, `[targets, V]`."""
    batch = make_batch([row], runner.model.device, runner.model.dtype)
    return runner.head(batch.read(runner.run(batch.inputs)[LAST])).float()


def _centred(logits: Tensor) -> Tensor:
    """Logits without the constant that a softmax ignores."""
    return logits - logits.mean(-1, keepdim=True)


def _agree(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal up to the rounding of a model in this dtype."""
    tolerance = _TOLERANCE_FP32 if dtype == torch.float32 else _TOLERANCE
    return bool((found - expected).float().norm() <= tolerance * expected.float().norm())


def _tokens(vocab: int, shape: tuple[int, int]) -> Tensor:
    """Random token ids, the same at each call."""
    return torch.from_numpy(np.random.default_rng(0).integers(vocab, size=shape))
