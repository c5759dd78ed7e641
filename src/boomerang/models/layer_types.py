"""Layer types that a config class computes the same way for every config: known without the class.

Configs from before transformers 5 leave it to their class which layers have a sliding window. This
small table says what the classes of transformers do; tests compare it with the installed version.
A type that is not here is no error: its class is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .config import PERIODIC_RULES, Config

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# All layers are alike, with a window or without: the class knows no types, so none are missing.
ALL_ALIKE = frozenset({
    "doge", "ministral3", "mistral", "mixtral", "phi3", "phimoe", "qwen3_moe", "starcoder2",
})  # fmt: skip


def known_layer_types(text: Config, count: int) -> list[str] | None:
    """The types that the class of a config computes.

    Args:
        text: The config of a language model, without its layer types.
        count: Its number of layers.

    Returns:
        A type for each layer, or None where only the class knows.
    """
    rule = _RULES.get(str(text.get("model_type")))
    return None if rule is None else rule(text, count)


def _full_every(
    text: Config, count: int, *, period: int, key: str | None, others: str = SLIDING
) -> list[str] | None:
    """Full attention in every n-th layer, a window (or `others`) in the others."""
    if key is not None and key in text:
        period = text[key]
    if type(period) is not int or period < 1:
        return None
    # Another rule beside it does no harm where it says the same.
    if any(text.get(rule) not in (None, period) for rule in PERIODIC_RULES if rule != key):
        return None
    return [others if (i + 1) % period else FULL for i in range(count)]


def _from_threshold_on(text: Config, count: int) -> list[str] | None:
    """Full attention below `max_window_layers`, a window from there on."""
    window, first = text.get("sliding_window"), text.get("max_window_layers")
    if text.get("use_sliding_window") is not True or window is None or type(first) is not int:
        return None
    return [FULL if i < first else SLIDING for i in range(count)]


_RULES: dict[str, Callable[[Config, int], list[str] | None]] = {
    "cohere2": partial(_full_every, period=4, key="sliding_window_pattern"),
    "gemma2": partial(_full_every, period=2, key=None),
    "gemma3_text": partial(_full_every, period=6, key="sliding_window_pattern"),
    "qwen2": _from_threshold_on,
    "qwen3": _from_threshold_on,
    "qwen3_next": partial(_full_every, period=4, key="full_attention_interval", others=LINEAR),
}
KNOWN_TYPES = frozenset(_RULES)
