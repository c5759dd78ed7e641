"""The order to patch in when none was measured."""

from __future__ import annotations

from typing import Any

from .layers import FIRST_TO_LAST, LAST_TO_FIRST


def default_order_for(config: dict[str, Any]) -> str:
    """The paper's choice of order for a teacher.

    First-to-last for models of type llama, last-to-first for all others (arXiv 2510.05064,
    section 4.1). It is advice about quality alone; every order works on every architecture.

    Args:
        config: The teacher's `config.json`.
    """
    return FIRST_TO_LAST if config.get("model_type") == "llama" else LAST_TO_FIRST
