"""Where the time goes when a real model is distilled and measured.

    python benchmarks/real.py TEACHER                 a checkpoint directory or a hub id
    python benchmarks/real.py TEACHER --rows 1        less of everything, for a look

Distils a few steps as `boomerang demo --real` does (every second layer kept, our preset along
first-to-last, frozen embedding and head, without switch points) on random tokens, then measures
student, middle and teacher. Seconds are CPU time, so that other work on the machine counts little.
The matrix rate is that of torch's own products, on the shape of a layer. Prints Markdown.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import describe_machine, processor
from transformers import PreTrainedModel

from boomerang.checkpoint.loading import load_model
from boomerang.checkpoint.resolve import resolve
from boomerang.distill.losses import Counts, weighted_loss
from boomerang.distill.module import DistillModule
from boomerang.distill.recipe import Loss
from boomerang.evaluate.scorer import Scorer
from boomerang.family import Family
from boomerang.layers import FIRST_TO_LAST, LayerMap
from boomerang.student import cut

LOSS = Loss(kl=1.0, alignment=10.0, distance="relative_squared_error")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::addmm_", "mkldnn::_linear_pointwise")
COPIES = ("aten::copy_", "aten::_to_copy", "aten::clone", "aten::contiguous")


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("teacher")
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=2, help="timed steps; the median counts")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    facts = (processor(), f"{torch.get_num_threads()} threads", f"torch {torch.__version__}")
    print(describe_machine(*facts) + "\n")
    teacher = load_model(resolve(args.teacher))
    layers = LayerMap.every(2, num_layers=teacher.config.num_hidden_layers, first=1, last=2)
    print("| work | tokens | tokens/s | share of the matrix rate | where the time goes |")
    print("|---|---|---|---|---|")
    for name in args.dtype:
        report(f"distillation, {name}", *distillation(teacher, layers, args, name), name, args)
    report("measuring, float32", *measuring(teacher, layers, args), "float32", args)


def report(
    what: str, tokens: int, step: Callable[[], object], vocabulary: int, dtype: str, args: object
) -> None:
    """Time some work, look where its time goes, and print a row."""
    step()
    seconds = statistics.median(cpu_seconds(step) for _ in range(args.steps))
    kind = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[kind], record_shapes=True, with_flops=True) as profile:
        step()
    events = profile.key_averages(group_by_input_shape=True)
    spent: Counter[str] = Counter()
    for event in events:
        spent[group(event.key, event.input_shapes, vocabulary)] += event.self_cpu_time_total
    total = sum(spent.values())
    share = sum(event.flops for event in events) / seconds / matrix_rate(dtype)
    where = ", ".join(f"{name} {value / total:.0%}" for name, value in spent.most_common())
    print(f"| {what} | {tokens:,} | {tokens / seconds:.0f} | {share:.0%} | {where} |", flush=True)


def group(operation: str, shapes: list[list[int]], vocabulary: int) -> str:
    """What an operation belongs to, by its name and the sizes it works on."""
    wide = any(vocabulary in shape[-2:] for shape in shapes if isinstance(shape, list))
    if operation in PRODUCTS:
        return "products with the head" if wide else "products of the layers"
    if "attention" in operation:
        return "attention"
    if wide and operation not in COPIES:
        return "passes over logits"
    if operation in COPIES:
        return "casts and copies of logits or head" if wide else "casts and copies"
    if "adam" in operation or "foreach" in operation:
        return "optimizer"
    return "the rest"


def distillation(
    teacher: PreTrainedModel, layers: LayerMap, args: argparse.Namespace, dtype: str
) -> tuple[int, Callable[[], object], int]:
    """A training step as the demo takes it, and how many tokens it has."""
    student = copy.deepcopy(cut(teacher, layers)).requires_grad_()
    freeze = ("embedding", "head")
    module = DistillModule(teacher, student, layers, LOSS, freeze=freeze).train()
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    vocabulary = teacher.config.vocab_size
    ids = torch.randint(0, vocabulary, (args.rows, args.length))
    half = dtype == "bfloat16"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            sums = module(input_ids=ids, labels=ids)
            counts = Counts(sums["ce_count"], sums["kl_count"], sums["alignment_count"])
            loss = weighted_loss(sums["prediction"], sums["alignment"], counts, LOSS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return ids.numel(), step, vocabulary


def measuring(
    teacher: PreTrainedModel, layers: LayerMap, args: argparse.Namespace
) -> tuple[int, Callable[[], object], int]:
    """Measuring the smallest size, the middle and the teacher; tokens are those of all three."""
    family = Family(teacher, cut(teacher, layers), layers)
    patches = sorted({0, layers.max_patch // 2, layers.max_patch})
    members = [layers.member(patch, FIRST_TO_LAST) for patch in patches]
    scorer = Scorer(family, members, max_length=args.length)
    vocabulary = teacher.config.vocab_size
    rows = torch.randint(0, vocabulary, (args.rows, args.length)).tolist()
    requests = [(row[:1], row[1:]) for row in rows]
    tokens = len(members) * sum(len(continuation) for _, continuation in requests)
    return tokens, lambda: list(scorer.run(requests)), vocabulary


def matrix_rate(name: str) -> float:
    """Operations a second of a product of a layer's size, in a dtype by its name."""
    dtype = getattr(torch, name)
    a, b = torch.randn(1024, 576).to(dtype), torch.randn(1536, 576).to(dtype)
    F.linear(a, b)
    seconds = min(cpu_seconds(lambda: [F.linear(a, b) for _ in range(20)]) for _ in range(3))
    return 20 * 2 * 1024 * 576 * 1536 / seconds


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU time that some work takes, over all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
