"""Log-probabilities of tokens from final hidden states, without ever holding all logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .layout import Ints

# Logits in memory at a time, whatever the vocabulary. Accelerators need large products to be busy;
# on a CPU blocks of 32 MiB and more are given back to the system and cleared again at each use.
_LOGITS_ON_CPU = 7 << 20
_LOGITS = 1 << 27


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
        # Among equals the first is taken; hits are few, and looking for it takes long.
        hits = is_greedy.nonzero()[:, 0]
        is_greedy[hits] = logits[row[hits]].argmax(-1) == target[hits]
        # In place: other memory of this size would take as long as the product.
        total = logits.sub_(largest[:, None]).exp_().sum(-1)
        log_probs.append(chosen - (largest + total.log())[row])
        greedy.append(is_greedy)
    return torch.cat(log_probs), torch.cat(greedy)
