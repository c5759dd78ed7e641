"""The order to patch in when none was given."""

from __future__ import annotations

from typing import Any

from ..layers import FIRST_TO_LAST, LAST_TO_FIRST, Order, order_name


def default_order_for(config: dict[str, Any]) -> str:
    """The paper's choice of order for a teacher.

    First-to-last for models of type llama, last-to-first for all others (arXiv 2510.05064,
    section 4.1). It is advice about quality alone; every order works on every architecture.

    Args:
        config: The teacher's `config.json`.
    """
    return FIRST_TO_LAST if config.get("model_type") == "llama" else LAST_TO_FIRST


def order_in_words(order: Order, source: str, model_type: str) -> str:
    """One line that says which order is used, and why that one.

    Args:
        order: The order.
        source: `"recorded"` with the student, or `"paper"`.
        model_type: The teacher's.
    """
    if source == "recorded":
        return f"order {order_name(order)}, recorded with the student"
    return f"order {order_name(order)}, the paper's for {model_type} (none is recorded)"
