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
        """Arrange rows of one text and one order."""
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


def gain(curve: Curve) -> float:
    """What patching gains: mean over the sizes between of how far below the student they are.

    As a share of the student's perplexity, geometrically: 0 is no gain, and below 0 a loss.
    """
    sizes = sorted(curve)
    student = mean(curve[sizes[0]])
    return 1 - math.exp(mean(math.log(mean(curve[n]) / student) for n in between(curve)))


def smoothness(study: Study) -> tuple[str, Verdict]:
    """Claim 1."""
    family, naive = study.curves[FAMILY], study.curves["naive"]
    rise = largest_rise(family)
    worse = [n for n in between(family) if not clearly_better(family[n], naive[n])]
    smooth = rise <= SLACK
    verdict: Verdict = "contradicted" if worse else "shown" if smooth else "not shown at this scale"
    rule = (
        f"Shown if perplexity rises by no more than {SLACK:.0%} from any size to the next; "
        "contradicted if a size between is not clearly better than naive pruning. "
        f"Largest change upwards: {rise:+.1%}."
    )
    return rule, verdict


def conditions(study: Study) -> tuple[str, Verdict]:
    """Claim 2."""
    family, naive, random = (study.curves[name] for name in (FAMILY, "naive", "random"))
    sizes = between(family)
    needs_distillation = all(clearly_better(family[n], naive[n]) for n in sizes)
    needs_start = all(clearly_better(family[n], random[n]) for n in sizes)
    # What the random student would have to come down to.
    teacher = mean(family[max(family)])
    student = mean(random[min(random)])
    there = 1 - teacher / student
    share = gain(random) / there if there > 0 else 0.0
    verdict: Verdict = "not shown at this scale"
    if needs_distillation and needs_start and share < 0.5:
        verdict = "shown"
    elif not any(clearly_better(family[n], naive[n]) for n in sizes) or not any(
        clearly_better(family[n], random[n]) for n in sizes
    ):
        verdict = "contradicted"
    rule = (
        "Shown if at every size between the family is clearly better than both, and patching "
        "brings the random student less than half of the way to the teacher; contradicted if at no "
        f"size it is better than one of them. Patching brings the random student {share:.0%} of "
        "the way."
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
    naive, plain, full = (study.curves[name] for name in ("naive", "ce", "paper"))
    effect = all(clearly_better(plain[n], naive[n]) for n in between(plain))
    dips = {name: _dip(study.curves[name]) for name in ("ce", "ce + kl", "ce + cosine", "paper")}
    removed = max(_dip(full), _dip(study.curves["ce + cosine"])) < min(dips["ce"], dips["ce + kl"])
    verdict: Verdict = (
        "shown" if effect and removed else "not shown at this scale" if effect else "contradicted"
    )
    listed = ", ".join(f"{name} {dip:+.1%}" for name, dip in dips.items())
    rule = (
        "Shown if CE alone is clearly better than naive pruning at every size between, and both "
        "losses with the cosine term dip less than both without; contradicted if CE alone shows no "
        "effect. The dip is how far the sizes next to student and teacher are above the student, "
        f"the larger of the two: {listed}."
    )
    return rule, verdict


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
    elif not works["every 3rd"] and (works["every 4th"] or works["every 5th"]):
        verdict = "contradicted"
    listed = "; ".join(
        f"{'every 2nd' if name == FAMILY else name} {rises[name]:+.1%} and {gains[name]:+.1%}"
        for name in names
    )
    rule = (
        "A kept list works if patching gains on average, and perplexity rises by no more than "
        f"{SLACK:.0%} from any size to the next. Shown if the first two work and the others do "
        "not; contradicted if every 3rd does not work and a sparser one does. Largest change "
        f"upwards and gain: {listed}."
    )
    return rule, verdict


def budgets(study: Study) -> tuple[str, Verdict]:
    """Claim 5, the tokens."""
    names = ("24 steps", FAMILY, "600 steps")
    levels = [_level(study.curves[name]) for name in names]
    better = levels[0] > levels[1] > levels[2]
    effect = [largest_rise(study.curves[name]) <= SLACK for name in names]
    vanishes = not effect[0] and effect[2]
    verdict: Verdict = (
        "shown"
        if better and vanishes
        else "contradicted" if levels[2] > levels[0] else "not shown at this scale"
    )  # fmt: skip
    tokens = {s: line["tokens"] for line in study.jobs for s in line["series"] if line["tokens"]}
    listed = ", ".join(
        f"{tokens[name]:,} tokens {level:.2f}" if name in tokens else f"{name} {level:.2f}"
        for name, level in zip(names, levels, strict=True)
    )
    rule = (
        "Shown if the mean perplexity of the sizes below the teacher falls with more tokens, and "
        f"with the fewest it rises by more than {SLACK:.0%} from some size to the next, with the "
        f"most not; contradicted if the most are worse than the fewest. Means: {listed}."
    )
    return rule, verdict


def _level(curve: Curve) -> float:
    return math.exp(mean(math.log(mean(curve[n])) for n in sorted(curve)[:-1]))


def cost(study: Study) -> tuple[str, Verdict]:
    """Claim 7."""
    once = _each(study, FAMILY)
    alone = {line["num_layers"]: line for line in _distillations(study, "distilled")}
    sizes = sorted(study.curves[FAMILY])[:-1]
    # Operations are linear in the layers, so those of the sizes that were not distilled are known.
    largest = max(alone)
    slope = (alone[largest]["flops"] - once["flops"]) / (largest - sizes[0])
    total = sum(once["flops"] + slope * (n - sizes[0]) for n in sizes)
    ratio = total / once["flops"]
    verdict: Verdict = "shown" if ratio >= len(sizes) else "contradicted"
    distilled = sum(_mean(study, "distilled", n, "flops") for n in alone)
    cpu = sum(_mean(study, "distilled", n, "cpu_seconds") for n in alone)
    rule = (
        "Shown if distilling every size below the teacher by itself takes at least as many times "
        f"the operations as there are sizes. One run for the family: {once['tokens']:,} tokens, "
        f"{once['flops']:.2e} FLOP, {once['cpu_seconds']:.0f} CPU seconds. The {len(alone)} sizes "
        f"distilled by themselves: {distilled:.2e} FLOP, {cpu:.0f} CPU seconds. All {len(sizes)} "
        f"sizes would take {total:.2e} FLOP, {ratio:.1f} times the family's."
    )
    return rule, verdict


def _distillations(study: Study, series: str) -> list[dict[str, Any]]:
    return [j for j in study.jobs if j["kind"] == "distil" and series in j["series"]]


def _each(study: Study, series: str) -> dict[str, float | int]:
    lines = _distillations(study, series)
    return {
        "tokens": lines[0]["tokens"],
        "flops": lines[0]["flops"],
        "cpu_seconds": mean(line["cpu_seconds"] for line in lines),
    }


def _mean(study: Study, series: str, size: int, key: str) -> float:
    return mean(j[key] for j in _distillations(study, series) if j["num_layers"] == size)


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
