"""Whether a model keeps documents apart that are packed into one row.

transformers tells them apart by `position_ids` that start again, but only some attention masks
heed that, and a recurrent state does not. Nothing in a config says so; a dozen tokens do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LENGTH = 8

# Far above rounding (also in TF32, where fp32 may mean that), far below what another document does:
# some tenths in trained models, some hundredths in fresh ones.
_TOLERANCE_FP32 = 0.01
_TOLERANCE = 0.1


def check_packing(model: PreTrainedModel, batch_size: int) -> None:
    """Compare a document behind another one with the same document alone.

    Args:
        model: The teacher, on the device and with the attention it trains with.
        batch_size: Rows in a batch of training; some attention knows packing in single rows only.

    Raises:
        RecipeError: The model sees across documents.
    """
    difference = packing_difference(model, min(2, batch_size))
    tolerance = _TOLERANCE_FP32 if model.dtype == torch.float32 else _TOLERANCE
    if difference is None or not difference <= tolerance:
        raise RecipeError(
            f"packed documents see each other in a {model.config.model_type} model",
            where="data.packing",
            fix="set data.packing: false",
        )


@torch.no_grad()
def packing_difference(model: PreTrainedModel, batch_size: int) -> float | None:
    """How far packing moves the logits of a row's second document, at the token it moves most.

    Args:
        model: Any causal language model.
        batch_size: 1 or 2.

    Returns:
        ‖packed - alone‖ / ‖alone‖ over the vocabulary, logits taken relative to their mean; None
        when the model takes no `position_ids`.
    """
    generator = torch.Generator().manual_seed(0)
    table: Any = model.get_input_embeddings()
    tokens = torch.randint(table.weight.shape[0], (2, batch_size, _LENGTH), generator=generator)
    before, alone = tokens.to(model.device)
    positions = torch.arange(_LENGTH, device=model.device).repeat(batch_size, 2)
    packed = torch.cat([before, alone], dim=1)
    try:
        output = model(input_ids=packed, position_ids=positions, use_cache=False)
    except TypeError:
        return None
    expected = _centred(model(input_ids=alone, use_cache=False).logits)
    found = _centred(output.logits[:, _LENGTH:])
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def _centred(logits: Tensor) -> Tensor:
    logits = logits.float()
    return logits - logits.mean(-1, keepdim=True)
