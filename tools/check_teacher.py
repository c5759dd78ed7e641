"""Whether a teacher is deep enough to show the effect: the gate of the embedded teacher.

    python tools/check_teacher.py TEACHER WORK

Runs the demo on the teacher (cut every second layer or `--keep`, distil with the demo's budget,
measure every size and naive pruning on the whole held-out books) and prints, as Markdown, what must
hold. The exit code is 0 when all of it does and 1 otherwise. WORK keeps what is done: an
interrupted check is continued by the same command.

The demo's held-out books must be unknown to the teacher, or its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from boomerang.baselines.naive import SERIES as NAIVE
from boomerang.demo.walkthrough import Settings, run_demo
from boomerang.evaluate.results import BITS_PER_BYTE, DIFFERENCE, FAMILY, PERPLEXITY, Row

STEP_TOKENS = Settings.batch_size * Settings.sequence_length
# Fewer than these and a curve between student and teacher is hard to tell from noise.
LEAST_NAIVE = 2.5  # naive student / teacher
LEAST_DISTILLED = 1.15  # distilled student / teacher
MOST_OF_NAIVE = 0.5  # distilled student / naive student

# How much worse than the size below a size may be: this much, or two paired standard errors.
MOST_WORSE = 0.02
STANDARD_ERRORS = 2
# What "by a wide margin" means beside naive pruning: at every size below the teacher, at most this
# share of what naive pruning loses against the teacher is lost.
WIDE = 0.5


@dataclass(frozen=True)
class Check:
    """One line of the gate: what was measured, what is asked for, and whether it holds."""

    what: str
    measured: str
    wanted: str
    passed: bool


def checks(rows: Sequence[Row]) -> Iterator[Check]:
    """The lines of the gate for the rows of a demo run along one order."""
    family, naive = perplexities(rows, FAMILY), perplexities(rows, NAIVE)
    sizes = sorted(family)
    student, teacher = sizes[0], sizes[-1]

    def at_least(what: str, value: float, least: float) -> Check:
        return Check(what, f"{value:.3f}", f"at least {least}", value >= least)

    yield at_least("naive student / teacher", naive[student] / naive[teacher], LEAST_NAIVE)
    yield at_least(
        "distilled student / teacher", family[student] / family[teacher], LEAST_DISTILLED
    )
    ratio = family[student] / naive[student]
    yield Check(
        "distilled / naive student", f"{ratio:.3f}", f"at most {MOST_OF_NAIVE}",
        ratio <= MOST_OF_NAIVE,
    )  # fmt: skip
    noise = {row.num_layers: row.stderr or 0.0 for row in of(rows, FAMILY, DIFFERENCE)}
    for small, large in pairwise(sizes):
        worse = family[large] - family[small]
        allowed = max(MOST_WORSE * family[small], STANDARD_ERRORS * noise[large])
        yield Check(
            f"{large} layers against {small}", f"{worse:+.3f}", f"at most +{allowed:.3f}",
            worse <= allowed,
        )  # fmt: skip
    best_possible = family[teacher]
    for size in sizes[:-1]:
        lost = (family[size] - best_possible) / (naive[size] - best_possible)
        yield Check(
            f"lost at {size} layers / lost by naive pruning", f"{lost:.3f}", f"at most {WIDE}",
            lost <= WIDE,
        )  # fmt: skip
    best = min(family.values())
    yield Check(
        "best of the family / teacher", f"{best / family[teacher]:.3f}", "1.000",
        best == family[teacher],
    )  # fmt: skip


def perplexities(rows: Sequence[Row], series: str) -> dict[int, float]:
    """Perplexity by number of layers."""
    return {row.num_layers: row.value for row in of(rows, series, PERPLEXITY)}


def of(rows: Sequence[Row], series: str, metric: str) -> list[Row]:
    """The rows of one series and metric."""
    return [row for row in rows if (row.series, row.metric) == (series, metric)]


def report(rows: Sequence[Row], results: Sequence[Check]) -> Iterator[str]:
    """The gate as Markdown: the curve, then the checks."""
    family, naive = perplexities(rows, FAMILY), perplexities(rows, NAIVE)
    bits = {row.num_layers: row.value for row in of(rows, FAMILY, BITS_PER_BYTE)}
    sizes = sorted(family)
    yield "| layers |" + "".join(f" {size} |" for size in sizes)
    yield "|---" * (len(sizes) + 1) + "|"
    for name, values in (
        ("perplexity", family), ("naive pruning", naive), ("bits per byte", bits)
    ):  # fmt: skip
        digits = 3 if values is bits else 2
        yield f"| {name} |" + "".join(f" {values[size]:.{digits}f} |" for size in sizes)
    yield ""
    yield "| check | measured | wanted | |"
    yield "|---|---|---|---|"
    for check in results:
        verdict = "pass" if check.passed else "FAIL"
        yield f"| {check.what} | {check.measured} | {check.wanted} | {verdict} |"


def main(argv: list[str] | None = None) -> int:
    """Run the demo on the teacher and judge it; 0 when everything holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", help="directory or hub id")
    parser.add_argument("work", type=Path, help="folder for the run's files")
    parser.add_argument("--keep", help="kept layers, as 0,2,4 (every second one and the last)")
    parser.add_argument("--length", type=int, help="tokens a row (the demo's)")
    parser.add_argument("--steps", type=int, help="distillation steps (the demo's)")
    parser.add_argument("--characters", type=int, help="of each held-out book (all)")
    args = parser.parse_args(argv)
    keep = None if args.keep is None else [int(layer) for layer in args.keep.split(",")]
    settings = {} if args.steps is None else {"steps": args.steps}
    if args.length is not None:
        settings |= {"sequence_length": args.length, "batch_size": STEP_TOKENS // args.length}
    outcome = run_demo(
        args.work,
        teacher=args.teacher,
        keep=keep,
        say=lambda line: print(line, file=sys.stderr),
        heldout_characters=args.characters or 1 << 40,
        **settings,
    )
    results = list(checks(outcome.rows))
    print("\n".join(report(outcome.rows, results)))
    return 0 if all(check.passed for check in results) else 1


if __name__ == "__main__":
    sys.exit(main())
