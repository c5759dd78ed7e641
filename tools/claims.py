"""What a study says about the paper's claims, as Markdown: numbers and a verdict for each.

    boomerang study claims OUT --jobs 2
    python tools/claims.py OUT

Reads OUT/results.jsonl and OUT/jobs.jsonl and nothing else; the figures it names are those of
OUT/figures under shorter names. All comparisons are of perplexities;
"clearly" means that the worst seed of the one is better than the best seed of the other. Each
section states its rule, and its verdict is one of: shown, not shown at this scale, contradicted.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from boomerang.evaluate.results import FAMILY, PERPLEXITY, Row, read_results

Verdict = Literal["shown", "not shown at this scale", "contradicted"]
Seeds = list[float]
Curve = dict[int, Seeds]
"""Perplexities, seed by seed, by number of layers."""

# From one size to the next a rise of perplexity by this share counts as none.
SLACK = 0.03
# As good as the model it is compared with: no more than this share above its perplexity.
ON_PAR = 0.02
# A dip is removed where no more than this share of it is left.
REMOVED = 0.5
# As cheap: no more than this many times its CPU time, which varies from run to run.
ON_PAR_COST = 1.1


@dataclass(frozen=True)
class Study:
    """What was measured.

    Args:
        curves: By series.
        jobs: The lines of `jobs.jsonl`.
    """

    curves: dict[str, Curve]
    jobs: list[dict[str, Any]]

    @classmethod
    def of(cls, rows: Sequence[Row], jobs: Sequence[dict[str, Any]]) -> Study:
        """Arrange rows of one text and one order.

        Raises:
            ValueError: They are of several, which would pass for seeds.
        """
        for what in ("task", "order"):
            found = {getattr(row, what) for row in rows} - {None}
            if len(found) > 1:
                raise ValueError(f"several values of {what}: {sorted(found)}")
        curves: dict[str, Curve] = {}
        for row in rows:
            if row.metric == PERPLEXITY:
                curve = curves.setdefault(row.series, {})
                curve.setdefault(row.num_layers, []).append(row.value)
        return cls(curves, list(jobs))

    def has(self, *series: str) -> bool:
        """Whether all of these were measured."""
        return all(each in self.curves for each in series)


def clearly_better(one: Seeds, other: Seeds) -> bool:
    """Whether every seed of the one is better (lower) than every seed of the other."""
    return max(one) < min(other)


def between(curve: Curve) -> list[int]:
    """The sizes between student and teacher."""
    return sorted(curve)[1:-1]


def largest_rise(curve: Curve) -> float:
    """The largest relative rise of mean perplexity from a size to the next; negative for none."""
    return max(mean(curve[b]) / mean(curve[a]) - 1 for a, b in pairwise(sorted(curve)))


def above_student(curve: Curve) -> float:
    """How far the worst size between is above the student, relatively; negative for none."""
    return max(mean(curve[n]) for n in between(curve)) / mean(curve[min(curve)]) - 1


def gain(curve: Curve) -> float:
    """What patching gains: the mean over the sizes between of their loss below the student's.

    As a share of what there is to gain, the loss of the student above the teacher's: a straight
    line from student to teacher gives a half, patching that does nothing 0, and harm less than 0.
    """
    sizes = sorted(curve)
    student, teacher = (math.log(mean(curve[n])) for n in (sizes[0], sizes[-1]))
    gained = student - mean(math.log(mean(curve[n])) for n in between(curve))
    return gained / (student - teacher) if student > teacher else 0.0


def smoothness(study: Study) -> tuple[str, Verdict]:
    """Claim 1."""
    family, naive = study.curves[FAMILY], study.curves["naive"]
    rise, above, gained = largest_rise(family), above_student(family), gain(family)
    worse = [n for n in between(family) if not clearly_better(family[n], naive[n])]
    smooth = rise <= SLACK and above <= SLACK and gained > 0
    verdict: Verdict = "contradicted" if worse else "shown" if smooth else "not shown at this scale"
    rule = (
        f"Shown if perplexity rises by no more than {SLACK:.0%} from any size to the next, no size "
        f"is more than {SLACK:.0%} above the student, and patching gains on average; "
        "contradicted if a size between is not clearly better than naive pruning. "
        f"Largest change upwards: {rise:+.1%}; worst size against the student: {above:+.1%}; "
        f"mean gain: {gained:.0%} of the loss between student and teacher, where a straight line "
        "has 50%."
    )
    return rule, verdict


def conditions(study: Study) -> tuple[str, Verdict]:
    """Claim 2."""
    family, naive, random = (study.curves[name] for name in (FAMILY, "naive", "random"))
    sizes = between(family)
    better = [[clearly_better(family[n], other[n]) for n in sizes] for other in (naive, random)]
    gained, theirs = gain(family), gain(random)
    verdict: Verdict = "not shown at this scale"
    if all(map(all, better)) and theirs < gained / 2:
        verdict = "shown"
    elif not all(map(any, better)) or theirs >= gained:
        verdict = "contradicted"
    rule = (
        "Shown if at every size between the family is clearly better than both, and patching "
        "gains the random student less than half of what it gains ours; contradicted if at no "
        "size the family is better than one of them, or the random student gains as much. "
        "Patching gains, as a share of the loss between student and teacher, on average over the "
        f"sizes between: ours {gained:.0%}, the random student {theirs:.0%}."
    )
    return rule, verdict


def individually(study: Study) -> tuple[str, Verdict]:
    """Claim 3."""
    family, alone = study.curves[FAMILY], study.curves["distilled"]
    sizes = sorted(set(family) & set(alone))
    ratios = {n: mean(family[n]) / mean(alone[n]) - 1 for n in sizes}
    worst = max(ratios.values())
    clear = any(clearly_better(alone[n], family[n]) and ratios[n] > ON_PAR for n in sizes)
    verdict: Verdict = (
        "shown" if worst <= ON_PAR else "contradicted" if clear else "not shown at this scale"
    )
    listed = ", ".join(f"{ratios[n]:+.1%} at {n} layers" for n in sizes)
    rule = (
        f"Shown if at every size the family is no more than {ON_PAR:.0%} above the model distilled "
        "for that size; contradicted if it is more, and clearly. "
        f"Family against distilled: {listed}."
    )
    return rule, verdict


def pruners(study: Study) -> tuple[str, Verdict]:
    """Claim 4."""
    family = study.curves[FAMILY]
    others = [study.curves[name] for name in ("shortgpt", "laco")]
    sizes = sorted(set(family) & set(others[0]) & set(others[1]))
    best = {n: min((other[n] for other in others), key=mean) for n in sizes}
    ratios = [mean(best[n]) / mean(family[n]) for n in sizes]
    everywhere = all(clearly_better(family[n], best[n]) for n in sizes)
    by_more = ratios[0] > ratios[-1]
    nowhere = not any(clearly_better(family[n], best[n]) for n in sizes)
    verdict: Verdict = (
        "shown"
        if everywhere and by_more
        else "contradicted" if nowhere else "not shown at this scale"
    )  # fmt: skip
    rule = (
        "Shown if the family is clearly better than the better of the two at every size, and by "
        "more at the smallest than at the largest; contradicted if at none. The better pruner's "
        f"perplexity is {ratios[0]:.2f} times the family's at {sizes[0]} layers and "
        f"{ratios[-1]:.2f} times at {sizes[-1]}."
    )
    return rule, verdict


def loss_terms(study: Study) -> tuple[str, Verdict]:
    """Claim 5, the loss."""
    naive, plain = study.curves["naive"], study.curves["ce"]
    effect = all(clearly_better(plain[n], naive[n]) for n in between(plain))
    names = ("ce", "ce + kl", "ce + cosine", "paper")
    dips = {name: by_seed(study.curves[name], _dip) for name in names}
    removed = all(
        max(dips[with_it]) <= REMOVED * min(dips[without])
        for with_it in ("ce + cosine", "paper")
        for without in ("ce", "ce + kl")
    )
    verdict: Verdict = (
        "shown" if effect and removed else "not shown at this scale" if effect else "contradicted"
    )
    listed = ", ".join(f"{name} {mean(dip):+.1%}" for name, dip in dips.items())
    rule = (
        "Shown if CE alone is clearly better than naive pruning at every size between, and both "
        "losses with the cosine term dip at most half as far as both without, the worst seed "
        "against the best; contradicted if CE alone shows no effect. The dip is how far the sizes "
        f"next to student and teacher are above the student, the larger of the two: {listed}."
    )
    return rule, verdict


def by_seed(curve: Curve, measure: Callable[[Curve], float]) -> Seeds:
    """A measure of each seed's own curve."""
    count = min(len(values) for values in curve.values())
    return [measure({n: [values[i]] for n, values in curve.items()}) for i in range(count)]


def _dip(curve: Curve) -> float:
    sizes = sorted(curve)
    return max(mean(curve[n]) for n in (sizes[1], sizes[-2])) / mean(curve[sizes[0]]) - 1


def kept_layers(study: Study) -> tuple[str, Verdict]:
    """Claim 5, the kept layers."""
    names = (FAMILY, "every 3rd", "every 4th", "every 5th")
    rises = {name: largest_rise(study.curves[name]) for name in names}
    gains = {name: gain(study.curves[name]) for name in names}
    works = {name: rises[name] <= SLACK and gains[name] > 0 for name in names}
    expected = [True, True, False, False]
    verdict: Verdict = "not shown at this scale"
    if [works[name] for name in names] == expected:
        verdict = "shown"
    elif all(works.values()) or (
        not works["every 3rd"] and (works["every 4th"] or works["every 5th"])
    ):
        verdict = "contradicted"
    listed = "; ".join(
        f"{'every 2nd' if name == FAMILY else name} {rises[name]:+.1%} and {gains[name]:+.0%}"
        for name in names
    )
    rule = (
        "A kept list works if patching gains on average, and perplexity rises by no more than "
        f"{SLACK:.0%} from any size to the next. Shown if the first two work and the others do "
        "not; contradicted if all work, or every 3rd does not and a sparser one does. Largest "
        f"change upwards, and gain as a share of the loss between student and teacher: {listed}."
    )
    return rule, verdict


def budgets(study: Study) -> tuple[str, Verdict]:
    """Claim 5, the tokens."""
    names = ("24 steps", FAMILY, "600 steps")
    levels = [by_seed(study.curves[name], _level) for name in names]
    better = clearly_better(levels[1], levels[0]) and clearly_better(levels[2], levels[1])
    effect = [largest_rise(study.curves[name]) <= SLACK for name in names]
    vanishes = not effect[0] and effect[2]
    verdict: Verdict = (
        "shown"
        if better and vanishes
        else "contradicted" if clearly_better(levels[0], levels[2]) else "not shown at this scale"
    )  # fmt: skip
    tokens = {s: line["tokens"] for line in study.jobs for s in line["series"] if line["tokens"]}
    listed = ", ".join(
        f"{name if name not in tokens else f'{tokens[name]:,} tokens'} {mean(level):.2f}"
        for name, level in zip(names, levels, strict=True)
    )
    rule = (
        "Shown if the mean perplexity of the sizes below the teacher clearly falls with more "
        f"tokens, and with the fewest it rises by more than {SLACK:.0%} from some size to the "
        "next, with the most not; contradicted if the most are clearly worse than the fewest. "
        f"Means: {listed}."
    )
    return rule, verdict


def _level(curve: Curve) -> float:
    return math.exp(mean(math.log(mean(curve[n])) for n in sorted(curve)[:-1]))


def cost(study: Study) -> tuple[str, Verdict]:
    """Claim 7."""
    family = _distillations(study, FAMILY)
    alone = _distillations(study, "distilled")
    once = mean(line["cpu_seconds"] for line in family)
    single = mean(line["cpu_seconds"] for line in alone)
    verdict: Verdict = "shown" if once <= ON_PAR_COST * single else "contradicted"
    # Operations are linear in the layers, so those of the sizes that were not distilled are known.
    sizes = sorted(study.curves[FAMILY])[:-1]
    largest = max(alone, key=lambda line: line["num_layers"])
    flops = family[0]["flops"]
    slope = (largest["flops"] - flops) / (largest["num_layers"] - sizes[0])
    total = sum(flops + slope * (n - sizes[0]) for n in sizes)
    counts = sorted({line["num_layers"] for line in alone})
    rule = (
        "Shown if the one run that serves all sizes takes no more CPU time than "
        f"{ON_PAR_COST:g} times that of one size distilled by itself. One run for the family: "
        f"{family[0]['tokens']:,} tokens, {flops:.2e} FLOP, {once:.0f} CPU seconds. One size by "
        f"itself: as many tokens, {single:.0f} CPU seconds, mean of {_listed(counts)} layers. "
        f"All {len(sizes)} sizes below the teacher, one by one, would take {total:.2e} FLOP, "
        f"{total / flops:.1f} times the family's."
    )
    return rule, verdict


def _distillations(study: Study, series: str) -> list[dict[str, Any]]:
    """Its runs; of one that went on after a kill the time before it is not known."""
    runs = [j for j in study.jobs if j["kind"] == "distil" and series in j["series"]]
    return [j for j in runs if not j["resumed"]] or runs


def _listed(numbers: Sequence[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last


@dataclass(frozen=True)
class Section:
    """A claim.

    Args:
        heading: Its title.
        series: What judging it takes, in the order of its table.
        judge: Its rule and its verdict.
        figure: The study's name of its figure; without one there is no table either.
        beside: Series that its table shows besides, where they were measured.
    """

    heading: str
    series: tuple[str, ...]
    judge: Callable[[Study], tuple[str, Verdict]]
    figure: str | None = None
    beside: tuple[str, ...] = ()


SECTIONS = (
    Section(
        "1. Size and quality interpolate smoothly",
        (FAMILY, "naive"),
        smoothness,
        "smoothness",
        ("mirror 0.5",),
    ),
    Section(
        "2. Both conditions are necessary", (FAMILY, "naive", "random"), conditions, "conditions"
    ),
    Section(
        "3. On par with individual distillation",
        (FAMILY, "distilled"),
        individually,
        "distilled",
        ("mirror 0.5",),
    ),
    Section("4. Above training-free pruners", (FAMILY, "shortgpt", "laco"), pruners, "pruners"),
    Section(
        "5a. The loss terms", ("naive", "ce", "ce + kl", "ce + cosine", "paper"), loss_terms, "loss"
    ),
    Section(
        "5b. The kept layers",
        (FAMILY, "every 3rd", "every 4th", "every 5th"),
        kept_layers,
        "kept",
    ),
    Section("5c. The tokens", ("24 steps", FAMILY, "600 steps"), budgets, "tokens"),
    Section("7. The cost", (FAMILY, "distilled"), cost),
)


def sections(study: Study) -> Iterator[str]:
    """A section for each claim that the study has the series for."""
    for each in SECTIONS:
        if not study.has(*each.series):
            continue
        rule, verdict = each.judge(study)
        yield f"## {each.heading}\n\n**{verdict.capitalize()}.** {rule}\n"
        if each.figure is not None:
            shown = [*each.series, *(name for name in each.beside if study.has(name))]
            yield f"![{each.heading}](images/claims-{each.figure}.png)\n"
            yield "\n".join(table(study, shown)) + "\n"


def table(study: Study, series: Sequence[str]) -> Iterator[str]:
    """Perplexities by size, the mean over seeds and their standard deviation."""
    sizes = sorted({n for name in series for n in study.curves[name]})
    yield "| layers |" + "".join(f" {n} |" for n in sizes)
    yield "|---" * (len(sizes) + 1) + "|"
    for name in series:
        cells = (_cell(study.curves[name].get(n)) for n in sizes)
        yield f"| {name} |" + "".join(f" {cell} |" for cell in cells)


def _cell(values: Seeds | None) -> str:
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def read_study(out: Path) -> Study:
    """What lies in the directory of a study."""
    jobs = [json.loads(line) for line in (out / "jobs.jsonl").read_text().splitlines()]
    return Study.of(read_results(out), jobs)


def main() -> None:
    """Print the sections."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="the directory of the study")
    print("\n".join(sections(read_study(parser.parse_args().out))))


if __name__ == "__main__":
    main()
