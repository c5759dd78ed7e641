"""Metrics in words: what a name means, which way is better, how a value is spelled."""

from __future__ import annotations

_DIFFERENCE = "_difference"

# Of the harness and of ours, where taking out the underscores is not enough.
_LABELS = {
    "acc": "Accuracy",
    "acc_norm": "Accuracy, normalised by length",
    "bits_per_byte": "Bits per byte",
    "exact_match": "Exact match",
    "f1": "F1",
    "mcc": "Matthews correlation",
}
_LOWER = {"bits_per_byte", "loss", "nll", "brier_score", "ter", "wer", "cer"}
_HIGHER = {"acc", "acc_norm", "exact_match", "f1", "mcc", "bleu", "chrf", "em"}

# Two-sided 95 % of the normal distribution: a difference below so many standard errors is noise.
NOISE = 1.96


def label(metric: str) -> str:
    """A metric in words; what follows a comma is the harness's name of a filter.

    Args:
        metric: As in the rows, such as `acc_norm` or `exact_match,strict-match`.
    """
    name, _, rest = metric.partition(",")
    words = _LABELS.get(name) or name.replace("_", " ")
    words = words[:1].upper() + words[1:]
    return f"{words} ({rest})" if rest else words


def lower_is_better(metric: str) -> bool | None:
    """Which way a metric is better; None where its name does not say."""
    name = metric.partition(",")[0]
    if name in _LOWER or name.endswith("perplexity"):
        return True
    higher = name in _HIGHER or name.startswith("rouge") or name.endswith(("_acc", "accuracy"))
    return False if higher else None


def better(metric: str) -> str:
    """Which way a metric is better, in words; empty where its name does not say."""
    return {True: "lower is better", False: "higher is better", None: ""}[lower_is_better(metric)]


def has_an_average(metric: str) -> bool:
    """Whether a mean over tasks makes sense.

    Perplexities of different texts are on scales of their own: one hard text would decide.
    """
    return not metric.partition(",")[0].endswith("perplexity")


def is_difference(metric: str) -> bool:
    """Whether it is a metric minus that of the member one size below."""
    return metric.endswith(_DIFFERENCE)


def difference_of(metric: str) -> str:
    """The name of the difference of a metric to the member one size below."""
    return metric + _DIFFERENCE


def is_noise(value: float, stderr: float | None) -> bool:
    """Whether a difference is less than `NOISE` of its paired standard errors."""
    return stderr is not None and abs(value) < NOISE * stderr


def count_unit(largest: int) -> tuple[float, str]:
    """The unit that a number of parameters is read in, and its name."""
    return (1e9, "billions") if largest >= 1e9 else (1e6, "millions")


def bytes_unit(largest: int) -> tuple[float, str]:
    """The unit that a number of bytes is read in, and its name."""
    for power, name in ((3, "GiB"), (2, "MiB")):
        if largest >= 1024**power:
            return float(1024**power), name
    return 1024.0, "KiB"


def show_value(value: float) -> str:
    """A measured value with three or four digits that matter."""
    size = abs(value)
    if size >= 100_000:
        return f"{value:.2e}"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:,.{digits}f}"


def show_with_error(value: float, stderr: float | None, *, sign: bool = False) -> str:
    """A value and its standard error, both with the digits of the value."""
    text = show_value(value)
    text = f"+{text}" if sign and value >= 0 else text
    if stderr is None:
        return text
    digits = len(text.partition(".")[2]) if "e" not in text else 0
    return f"{text} ± {stderr:,.{digits}f}" if digits else f"{text} ± {show_value(stderr)}"
