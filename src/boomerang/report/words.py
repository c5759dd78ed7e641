"""Words and looks: metrics, units and values as people read them, and how lines are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

NOISE = 1.96
"""Paired standard errors below which a difference is noise: two-sided 95 % of the normal."""

_DIFFERENCE = "_difference"

# Metrics of the harness and ours for which replacing underscores is not enough.
_LABELS = {
    "acc": "Accuracy",
    "acc_norm": "Accuracy, normalised by length",
    "f1": "F1",
    "mcc": "Matthews correlation",
}
_LOWER = {"bits_per_byte", "loss", "nll", "brier_score", "ter", "wer", "cer"}
_HIGHER = {"acc", "acc_norm", "exact_match", "f1", "mcc", "bleu", "chrf", "em"}


def label(metric: str) -> str:
    """A metric such as `exact_match,strict-match` in words; a comma begins the harness's filter."""
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


def is_difference(metric: str) -> bool:
    """Whether it is a metric minus that of the member one size below."""
    return metric.endswith(_DIFFERENCE)


def difference_of(metric: str) -> str:
    """The name of the difference of a metric to the member one size below."""
    return metric + _DIFFERENCE


def count_unit(largest: int) -> tuple[float, str]:
    """The unit for numbers of parameters up to `largest`, and its name."""
    return (1e9, "billions") if largest >= 1e9 else (1e6, "millions")


def bytes_unit(largest: int) -> tuple[float, str]:
    """The unit for numbers of bytes up to `largest`, and its name."""
    for power, name in ((3, "GiB"), (2, "MiB")):
        if largest >= 1024**power:
            return float(1024**power), name
    return 1024.0, "KiB"


def show_value(value: float) -> str:
    """A measured value with three or four significant digits."""
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


Kind = Literal["family", "baseline", "external"]


class Style(NamedTuple):
    """How a line is drawn: its colour on white, and matplotlib's names of dash and marker."""

    color: str
    dash: str
    marker: str


# Okabe and Ito's palette, which colour-blind readers can distinguish; line and marker differ too.
# The style sheet has each of these in both themes, as a variable such as `--c0072b2`.
_BLUE, _GREEN, _SKY, _RED = "#0072B2", "#009E73", "#56B4E9", "#D55E00"
_PINK, _ORANGE, _BLACK, _GREY = "#CC79A7", "#E69F00", "#222222", "#777777"

# Naive pruning and random initialisation look alike in every report.
_FIXED = {"naive": Style(_RED, "--", "s"), "random": Style(_PINK, ":", "^")}
_POOLS: dict[Kind, list[Style]] = {
    "family": [
        Style(_BLUE, "-", "o"),
        Style(_GREEN, "-", "D"),
        Style(_BLACK, "-", "v"),
        Style(_SKY, "-", "s"),
    ],
    "baseline": [
        *_FIXED.values(),
        Style(_ORANGE, "-.", "P"),
        Style(_GREY, "--", "h"),
        Style(_BLACK, ":", "X"),
        Style(_SKY, "-.", "v"),
    ],
    "external": [Style(_BLACK, "-", "X"), Style(_GREY, "-", "P"), Style(_GREEN, "-", "h")],
}


def styles(lines: Sequence[tuple[Kind, str]]) -> list[Style]:
    """A style for each line, given its kind and series; they repeat only when a pool is used up."""
    reserved = [_FIXED[series] for kind, series in lines if kind == "baseline" and series in _FIXED]
    found: list[Style] = []
    for kind, series in lines:
        pool = _POOLS[kind]
        free = [style for style in pool if style not in found]
        unreserved = [style for style in free if style not in reserved]
        choice = (unreserved or free or [pool[len(found) % len(pool)]])[0]
        fixed = _FIXED.get(series, choice) if kind == "baseline" else choice
        found.append(choice if fixed in found else fixed)
    return found
