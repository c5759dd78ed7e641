"""Measuring every member of a family in one pass, beside measuring one after the other.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [12x128|24x256] [--order last-to-first]
        [--repeats 3] [--scale 1.0] [--members 2,4,all]

Random models (Qwen3 with every second layer kept) and random tokens: time does not depend on what
they mean. Three kinds of task: choices (four continuations of 4 to 16 tokens behind a context of 64
to 192), sentences (16 to 48 tokens behind one) and rolling windows (512 tokens).

The plain way runs each member in memory alone, as lm-evaluation-harness runs a model: requests by
length in batches of 8 rows, each request a row unless it only ends in another token, logits and
log-softmax of the whole batch. Both ways take turns, each run in a process of its own that starts
with the models in memory; compared are the medians of CPU time, which other work on the machine
disturbs less than elapsed time, and the largest memory beyond the models. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import copy
import math
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from boomerang import Family, LayerMap, Member
from boomerang.evaluate.rows import Request, encode
from boomerang.evaluate.scorer import Scorer
from boomerang.layers import FIRST_TO_LAST, LAST_TO_FIRST
from boomerang.student import cut

MODELS = {"12x128": (12, 128, 4096), "24x256": (24, 256, 32000)}
MAX_LENGTH = 2048
BATCH_SIZE = 8
# Log-likelihoods differ by the rounding of sums in fp32, as the plain way adds them.
TOLERANCE = 2e-6

Values = list[list[tuple[float, bool]]]
Way = Callable[[Family, Sequence[Member], Sequence[Request]], Values]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", choices=MODELS, default="12x128")
    parser.add_argument("--order", choices=(LAST_TO_FIRST, FIRST_TO_LAST), default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of requests")
    parser.add_argument("--members", default="all", help="how many members, evenly chosen")
    args = parser.parse_args()
    family = make_family(*MODELS[args.model])
    tasks = make_tasks(MODELS[args.model][2], args.scale)
    print("| order | members | task | one pass, s | one by one, s | ratio | MiB | MiB one by one |")
    print("|---" * 8 + "|", flush=True)
    ratios = []
    for order in (LAST_TO_FIRST, FIRST_TO_LAST) if args.order is None else (args.order,):
        for count in args.members.split(","):
            members = choose(family.layers.members(order), count)
            for task, requests in tasks.items():
                runs = [
                    [measure(way, family, members, requests) for way in (one_pass, one_by_one)]
                    for _ in range(args.repeats)
                ]
                check(*(values for _, _, values in runs[0]))
                ours, theirs = (median(run[way][0] for run in runs) for way in (0, 1))
                memory = [median(run[way][1] for run in runs) for way in (0, 1)]
                ratios.append(theirs / ours)
                print(
                    f"| {order} | {len(members)} | {task} | {ours:.2f} | {theirs:.2f} "
                    f"| {theirs / ours:.2f} | {memory[0]:.0f} | {memory[1]:.0f} |",
                    flush=True,
                )
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\nGeometric mean {mean:.2f}, least {min(ratios):.2f}, repeats {args.repeats}.")


def make_family(num_layers: int, width: int, vocab: int) -> Family:
    """A random teacher and a student that differs from its cut in every tensor."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=width // 8,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
    )
    teacher = AutoModelForCausalLM.from_config(config).eval()
    layers = LayerMap.every(2, num_layers, first=1, last=2)
    student = copy.deepcopy(cut(teacher, layers))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    return Family(teacher, student, layers)


def make_tasks(vocab: int, scale: float) -> dict[str, list[Request]]:
    """Requests of three kinds, about as much work each for a member alone."""
    generator = random.Random(0)

    def tokens(least: int, most: int) -> list[int]:
        return [generator.randrange(vocab) for _ in range(generator.randint(least, most))]

    contexts = [tokens(64, 192) for _ in range(round(16 * scale))]
    return {
        "choices": [(context, tokens(4, 16)) for context in contexts for _ in range(4)],
        "sentences": [([0], tokens(16, 48)) for _ in range(round(192 * scale))],
        "rolling": [([0], tokens(512, 512)) for _ in range(round(12 * scale))],
    }


def choose(members: Sequence[Member], count: str) -> list[Member]:
    """As many members as wanted, from the smallest to the largest."""
    if count == "all":
        return list(members)
    last = len(members) - 1
    return [members[round(i * last / (int(count) - 1))] for i in range(int(count))]


def one_pass(family: Family, members: Sequence[Member], requests: Sequence[Request]) -> Values:
    """All members at once."""
    values: Values = [[(math.nan, False)] * len(requests) for _ in members]
    for scored in Scorer.of(family, members, max_length=MAX_LENGTH).run(requests):
        for found, sums, greedy in zip(values, scored.log_likelihood, scored.greedy, strict=True):
            for index, value, is_greedy in zip(scored.requests, sums, greedy, strict=True):
                found[index] = (float(value), bool(is_greedy))
    return values


def one_by_one(family: Family, members: Sequence[Member], requests: Sequence[Request]) -> Values:
    """Each member alone, in memory."""
    return [plain(family.model(member).eval(), requests) for member in members]


@torch.no_grad()
def plain(model: PreTrainedModel, requests: Sequence[Request]) -> list[tuple[float, bool]]:
    """The values of one model."""
    values = [(math.nan, False)] * len(requests)
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        alike.setdefault(encode(request, MAX_LENGTH)[0], []).append(index)
    by_length = sorted(alike, key=lambda tokens: (-len(tokens), tokens))
    for first in range(0, len(by_length), BATCH_SIZE):
        batch = by_length[first : first + BATCH_SIZE]
        inputs = torch.zeros(len(batch), len(batch[0]), dtype=torch.long)
        for row, tokens in enumerate(batch):
            inputs[row, : len(tokens)] = torch.tensor(tokens)
        log_probs = torch.log_softmax(model(inputs).logits, dim=-1)
        for row, tokens in enumerate(batch):
            for index in alike[tokens]:
                targets = torch.tensor(requests[index][1])
                own = log_probs[row, len(tokens) - len(targets) : len(tokens)]
                is_greedy = bool((own.argmax(-1) == targets).all())
                values[index] = (float(own.gather(1, targets[:, None]).sum()), is_greedy)
    return values


def measure(
    way: Way, family: Family, members: Sequence[Member], requests: Sequence[Request]
) -> tuple[float, float, Values]:
    """CPU seconds, the largest memory beyond what was there in MiB, and the values."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_measure, (way, family, members, requests))


def _measure(
    way: Way, family: Family, members: Sequence[Member], requests: Sequence[Request]
) -> tuple[float, float, Values]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize()
    start = time.process_time()
    values = way(family, members, requests)
    seconds = time.process_time() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, (most - before) / 2**20, values


def check(found: Values, expected: Values) -> None:
    """Both ways must give the same values."""
    for ours, theirs in zip(found, expected, strict=True):
        for (value, greedy), (other, other_greedy) in zip(ours, theirs, strict=True):
            if abs(value - other) > TOLERANCE * abs(other) + 1e-4 or greedy != other_greedy:
                raise SystemExit(f"not the same: {value} {greedy} and {other} {other_greedy}")


if __name__ == "__main__":
    main()
