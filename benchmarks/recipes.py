"""Distillation recipes side by side on the embedded teacher or another, at equal tokens.

    python benchmarks/recipes.py WORK [--recipes "paper,mirror 0.5"] [--seeds 0,1] [--teacher DIR]

Distils the student of every second layer by each recipe and seed, measures every member along both
orders on the held-out books (windows of 256 tokens, none overlapping), and prints a Markdown table.
WORK keeps what is done: run it again to go on or to add a recipe.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import boomerang
from boomerang.baselines import naive
from boomerang.baselines.bench import Bench
from boomerang.checkpoint.directory import read_config
from boomerang.checkpoint.sources import Source, Sources
from boomerang.demo import assets
from boomerang.distill.recipe import Recipe
from boomerang.evaluate.results import PERPLEXITY, Row
from boomerang.layers import FIRST_TO_LAST, LAST_TO_FIRST, LayerMap
from boomerang.models.config import num_layers
from boomerang.text.documents import join_documents

LENGTH = 256
ROWS = 16
SQUARED = {"ce": 1, "kl": 1, "alignment": 10, "distance": "relative_squared_error"}

RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"loss": {"ce": 1, "kl": 0.1, "alignment": 2, "distance": "cosine"}},
    "squared": {"loss": SQUARED},
    "mirror 0.25": {"loss": SQUARED, "mirror": 0.25},
    "mirror 0.5": {"loss": SQUARED, "mirror": 0.5},
    "mirror 0.25 frozen": {"loss": SQUARED, "mirror": 0.25, "freeze": ["embedding", "head"]},
    "mirror 0.5 frozen": {"loss": SQUARED, "mirror": 0.5, "freeze": ["embedding", "head"]},
    "mirror 0.75 frozen": {"loss": SQUARED, "mirror": 0.75, "freeze": ["embedding", "head"]},
    "mirror 0.25 alignment 40": {"loss": SQUARED | {"alignment": 40}, "mirror": 0.25},
    "switch 0.25": {"loss": SQUARED, "switch": 0.25},
    "switch 0.25 frozen": {"loss": SQUARED, "switch": 0.25, "freeze": ["embedding", "head"]},
    "switch 0.5": {"loss": SQUARED, "switch": 0.5},
}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--recipes", default=",".join(("paper", "squared", "mirror 0.25")))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--teacher", type=Path, default=assets.teacher_path())
    parser.add_argument("--characters", type=int, default=60_000, help="measured of each book")
    args = parser.parse_args()
    texts = write_texts(args.work, args.characters)
    layers = LayerMap.every(2, num_layers=num_layers(read_config(args.teacher)), first=1, last=2)
    for name in args.recipes.split(","):
        for seed in map(int, args.seeds.split(",")):
            run(args.work, name, seed, args.steps, args.teacher, layers, texts)
    print("\n".join(table(args.work, args.teacher, layers, texts, args.steps)))


def write_texts(work: Path, characters: int) -> dict[str, Path]:
    """The books to distil on and excerpts of those to measure on, as files."""
    work.mkdir(parents=True, exist_ok=True)
    paths = {"train": work / "train.txt", "heldout": work / "held-out-books.txt"}
    excerpts = [book[:characters] for book in assets.heldout_documents()]
    paths["train"].write_text(join_documents(assets.training_documents()))
    paths["heldout"].write_text(join_documents(excerpts))
    return paths


def run(
    work: Path,
    name: str,
    seed: int,
    steps: int,
    teacher: Path,
    layers: LayerMap,
    texts: dict[str, Path],
) -> None:
    """Distil by one recipe and seed, unless that is done."""
    out = work / f"{name}-{steps}-{seed}"
    if (out / "config.json").exists():
        return
    recipe = Recipe.parse(
        {
            "preset": "paper",
            **RECIPES[name],
            "teacher": str(teacher),
            "keep": list(layers.kept),
            "out": str(out),
            "data": {
                "files": [str(texts["train"])],
                "sequence_length": LENGTH,
            },
            "seed": seed,
            "training": {
                "max_steps": steps,
                "per_device_train_batch_size": ROWS,
                "learning_rate": 2e-3,
                "save_strategy": "no",
            },
        }
    )
    start = time.process_time()
    boomerang.distill(recipe)
    (out / "seconds.txt").write_text(f"{time.process_time() - start:.0f}")


def table(
    work: Path, teacher: Path, layers: LayerMap, texts: dict[str, Path], steps: int
) -> Iterator[str]:
    """Perplexities of all that is done, the mean over seeds."""
    sizes = [member.num_layers for member in layers.members()]
    yield f"| recipe ({steps * ROWS * LENGTH:,} tokens) | order | seeds | CPU s |" + "".join(
        f" {size} |" for size in sizes
    )
    yield "|---" * (4 + len(sizes)) + "|"
    done = {
        name: sorted(work.glob(f"{name}-{steps}-*/seconds.txt"))
        for name in RECIPES
        if any(work.glob(f"{name}-{steps}-*/seconds.txt"))
    }
    settings: dict[str, Any] = {"texts": [texts["heldout"]], "window": LENGTH, "stride": LENGTH}
    for order in (LAST_TO_FIRST, FIRST_TO_LAST):
        results = work / f"results-{order}"
        bench = Bench(Sources.uncut(Source.open(teacher), layers), {})
        rows = naive.run(bench, results, order=order, **settings)
        yield line("naive", order, "", "", perplexities(rows))
        for name, marks in done.items():
            runs = [
                perplexities(
                    boomerang.evaluate(teacher, mark.parent, results, order=order, **settings)
                )
                for mark in marks
            ]
            seconds = mean(float(mark.read_text()) for mark in marks)
            means = [mean(values) for values in zip(*runs, strict=True)]
            yield line(name, order, str(len(runs)), f"{seconds:.0f}", means)


def line(name: str, order: str, seeds: str, seconds: str, values: list[float]) -> str:
    """A row of the table."""
    cells = "".join(f" {value:.2f} |" for value in values)
    return f"| {name} | {order} | {seeds} | {seconds} |{cells}"


def perplexities(rows: list[Row]) -> list[float]:
    """Perplexity by size."""
    return [row.value for row in rows if row.metric == PERPLEXITY]


if __name__ == "__main__":
    main()
