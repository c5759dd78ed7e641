"""Whether a model keeps documents apart that are packed into one row.

transformers infers document boundaries from `position_ids` that restart, but only some attention
masks use them, and a recurrent state does not. No config key says so; a dozen tokens show it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LENGTH = 8

# Most models that keep documents apart do not move them at all. Where the batches of experts depend
# on all tokens, a document moves by rounding, which the noise measures.
_SMALLEST = 1e-3
_NOISE_FACTOR = 4


def check_packing(model: PreTrainedModel, batch_size: int) -> None:
    """Refuse a model in which the first document of a row changes the second one's logits.

    `batch_size` is that of training, because some attention keeps documents apart in single rows
    only.

    Raises:
        RecipeError: The model sees across documents, or takes no `position_ids`.
        CheckpointError: Its logits are not finite.
    """
    change = packing_change(model, min(2, batch_size))
    if change is not None:
        leak, noise = change
        if leak <= max(_SMALLEST, _NOISE_FACTOR * noise):
            return
    raise RecipeError(
        f"packed documents see each other in a {model.config.model_type} model",
        where="data.packing",
        fix="set data.packing: false",
    )


@torch.no_grad()
def packing_change(model: PreTrainedModel, batch_size: int) -> tuple[float, float] | None:
    """How far another first document moves the second one's logits, and the model's own noise.

    The noise is how far another second document moves the first one's logits, which cannot see it.
    All passes have the same shape.

    Returns:
        Both as ‖a - b‖ / ‖b‖ over the vocabulary, logits taken relative to their mean, at the token
        that moves most. None when the model takes no `position_ids`.

    Raises:
        CheckpointError: The logits are not finite.
    """
    generator = torch.Generator().manual_seed(0)
    table: Any = model.get_input_embeddings()
    tokens = torch.randint(table.weight.shape[0], (4, batch_size, _LENGTH), generator=generator)
    a, b, c, d = tokens.to(model.device)
    positions = torch.arange(_LENGTH, device=model.device).repeat(batch_size, 2)

    def logits(first: Tensor, second: Tensor) -> Tensor:
        packed = torch.cat([first, second], dim=1)
        found = model(input_ids=packed, position_ids=positions, use_cache=False).logits.float()
        if not found.isfinite().all():
            raise CheckpointError(
                "gives logits that are not finite",
                where="teacher",
                fix="check its weights for NaN and infinity, or load it in another dtype",
            )
        return found - found.mean(-1, keepdim=True)

    try:
        base = logits(a, c)
    except TypeError:
        return None
    leak = _change(logits(b, c)[:, _LENGTH:], base[:, _LENGTH:])
    return leak, _change(logits(a, d)[:, :_LENGTH], base[:, :_LENGTH])


def _change(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())
