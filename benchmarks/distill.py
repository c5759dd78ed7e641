"""What a step of distillation costs, beside the straightforward way to write one.

    python benchmarks/distill.py                                   the two CPU shapes of the docs
    python benchmarks/distill.py --shapes qwen3-4b --device cuda   on a GPU, in bfloat16

The straightforward way: transformers' own forward with `output_hidden_states`, one padded document
a row, full logits of both models in fp32, KL over every position, every state compared. Both ways
train on the very same documents, in turns within one process; what counts is real tokens (no
padding) a second. Peak memory is measured in a process for each way, above what is there before a
step: weights, gradients and optimizer state. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine, processor
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Qwen3Config

import boomerang
from boomerang.distill.losses import IGNORED, Counts, weighted_loss
from boomerang.distill.module import DistillModule
from boomerang.distill.preflight import ModelSize, flops_per_token
from boomerang.distill.recipe import Loss
from boomerang.student import cut
from boomerang.text import pack
from boomerang.text.pack import Document
from boomerang.text.rows import Rows, collate, count_tokens

Way = Literal["plain", "boomerang"]
Step = Callable[[], int]
WAYS: tuple[Way, ...] = ("plain", "boomerang")
# Dense bf16 matrix products of one H100 or H200, by NVIDIA's data sheet.
PEAK_FLOPS = 989e12
QWEN3_4B = Path(__file__).parents[1] / "tests/configs/Qwen3-4B-Base.json"
MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "scaled_dot_product", "flash_attention", "gemm")


@dataclass(frozen=True)
class Shape:
    """A teacher's shape, and how many documents a step trains on."""

    layers: int
    width: int
    vocabulary: int
    sequence: int
    documents: int


SHAPES = {
    "tiny": Shape(3, 32, 128, 32, 4),
    "12x128": Shape(12, 128, 4096, 256, 16),
    "16x512": Shape(16, 512, 32000, 512, 4),
    "qwen3-4b": Shape(36, 2560, 151936, 2048, 8),
}


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["12x128", "16x512"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each way")
    parser.add_argument("--memory-of", nargs=2, metavar=("WAY", "FILL"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if args.memory_of:
        way, fill = args.memory_of
        print(memory(args.shapes[0], way, float(fill), args.device))
        return
    print(describe_machine(*machine_facts(args.device)) + "\n")
    for name in args.shapes:
        report(name, args.steps, args.device)


def report(name: str, steps: int, device: str) -> None:
    """Measure one shape and print its table."""
    shape = SHAPES[name]
    print(
        f"{name}: {shape.layers} layers of width {shape.width}, vocabulary {shape.vocabulary}; "
        f"{shape.documents} documents a step, at most {shape.sequence} tokens each\n"
    )
    print(
        "| documents | way | real tokens/s | ratio | peak memory (MiB) | ratio | matrix products |"
    )
    print("|---|---|---|---|---|---|---|")
    for fill in (0.5, 1.0):
        documents = "half a row" if fill < 1 else "full rows"
        measured = [Measured.of(name, way, fill, device) for way in WAYS]
        speed = interleaved(measured, steps)
        for one, rate in zip(measured, speed, strict=True):
            share = "" if one.products is None else f"{one.products:.0%}"
            print(
                f"| {documents} | {one.way} | {rate:,.0f} | {rate / speed[0]:.2f}x | "
                f"{one.memory:,.1f} | {one.memory / measured[0].memory:.2f}x | {share} |"
            )
            if device == "cuda":
                used = rate * one.flops / PEAK_FLOPS
                print(
                    f"|  | {one.way}: utilisation of {PEAK_FLOPS / 1e12:.0f} TFLOP/s | {used:.1%} |"
                )
    print()


@dataclass
class Measured:
    """One way on one set of documents."""

    way: Way
    step: Step
    memory: float
    flops: int
    products: float | None

    @classmethod
    def of(cls, name: str, way: Way, fill: float, device: str) -> Measured:
        """Set a way up, and look at a step of it."""
        step, module = set_up(SHAPES[name], way, fill, device)
        student, teacher = (ModelSize.of(m).matrices for m in (module.student, module.teacher))
        flops = flops_per_token(student, teacher, SHAPES[name].sequence)
        peak = memory_elsewhere(name, way, fill, device)
        return cls(way, step, peak, flops, product_share(step, device))


def memory_elsewhere(name: str, way: Way, fill: float, device: str) -> float:
    """`memory` in a process of its own."""
    command = [sys.executable, __file__, "--shapes", name, "--device", device]
    command += ["--memory-of", way, str(fill)]
    # Every large tensor is mapped on its own, so that memory is given back when it is freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(answer.stdout.split()[-1])


def interleaved(ways: list[Measured], steps: int) -> list[float]:
    """Real tokens a second of each way, from the median time of a step; the ways take turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    tokens = [way.step() for way in ways]
    for _ in range(steps):
        for way, found in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way.step()
            found.append(time.perf_counter() - began)
    return [n / statistics.median(found) for n, found in zip(tokens, seconds, strict=True)]


def memory(name: str, way: Way, fill: float, device: str) -> float:
    """The peak of a step above weights, gradients and optimizer state, in MiB."""
    step, _ = set_up(SHAPES[name], way, fill, device)
    step()
    step()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 2**10


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def product_share(step: Step, device: str) -> float | None:
    """The share of a step's time in matrix products and attention; None where it is not known."""
    kind = torch.profiler.ProfilerActivity
    on_gpu = device == "cuda"
    with torch.profiler.profile(activities=[kind.CUDA if on_gpu else kind.CPU]) as profile:
        step()
    spent = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profile.key_averages()
    }
    total = sum(spent.values())
    products = sum(us for key, us in spent.items() if any(name in key for name in MATRIX_PRODUCTS))
    return products / total if total else None


# ------------------------------------------------------------------------------- the two ways


def set_up(shape: Shape, way: Way, fill: float, device: str) -> tuple[Step, DistillModule]:
    """A training step of one way, and the models; a step returns its number of real tokens."""
    on_gpu = device == "cuda"
    teacher = make_teacher(shape, device, torch.bfloat16 if on_gpu else torch.float32)
    layers = boomerang.LayerMap.every(2, num_layers=shape.layers, first=1, last=2)
    # `cut` shares the teacher's tensors.
    student = copy.deepcopy(cut(teacher, layers)).float()
    module = DistillModule(teacher, student, layers, Loss()).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=on_gpu)
    batch = documents(shape, fill, packed=way == "boomerang")
    batch = {key: value.to(device) for key, value in batch.items()}
    tokens = int(count_tokens(batch))
    losses = {"plain": plain_loss, "boomerang": our_loss}[way]

    def step() -> int:
        # The gradients stay, as they do where steps are accumulated: they are no part of the peak.
        optimizer.zero_grad(set_to_none=False)
        precision: AbstractContextManager[Any] = nullcontext()
        if on_gpu:
            precision = torch.autocast("cuda", dtype=torch.bfloat16)
        with precision:
            loss = losses(module, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        return tokens

    return step, module


def make_teacher(shape: Shape, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A random Qwen3 model; for `qwen3-4b` of the published shape."""
    if shape == SHAPES["qwen3-4b"]:
        config = AutoConfig.for_model(**json.loads(QWEN3_4B.read_text()))
    else:
        config = Qwen3Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.width * 11 // 4,
            num_hidden_layers=shape.layers,
            num_attention_heads=max(2, shape.width // 64),
            num_key_value_heads=max(1, shape.width // 128),
            head_dim=min(64, shape.width // 2),
            tie_word_embeddings=True,
        )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def documents(shape: Shape, fill: float, *, packed: bool) -> dict[str, Tensor]:
    """The documents of a step, of lengths that fill this share of a row on average."""
    rng = np.random.default_rng(0)
    length, count = shape.sequence, shape.documents
    half = length // 2
    # In pairs that sum to one row, so that packing cuts no document and leaves no gap.
    shorter = rng.integers(length // 8, half + 1, count // 2) if fill < 1 else None
    lengths = [length] * count
    if shorter is not None:
        lengths = [n for short in shorter for n in (int(short), length - int(short))]
    texts = [rng.integers(0, shape.vocabulary, n).astype(np.int32) for n in lengths]
    made = [Document(text, np.ones(len(text), np.bool_)) for text in texts]
    rows = Rows(list((pack.packed if packed else pack.padded)(made, length, 0)), packed)
    return collate([rows[i] for i in range(len(rows))])


def our_loss(module: DistillModule, batch: dict[str, Tensor]) -> Tensor:
    """The loss as training takes it."""
    sums = module(**batch)
    counts = Counts(sums["ce_count"], sums["kl_count"], sums["alignment_count"])
    return weighted_loss(sums["prediction"], sums["alignment"], counts, module.loss)


def plain_loss(module: DistillModule, batch: dict[str, Tensor]) -> Tensor:
    """The paper's loss (arXiv 2510.05064, section 3.2), written down as it stands."""
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    student = module.student(**inputs, output_hidden_states=True, use_cache=False)
    with torch.no_grad():
        teacher = module.teacher(**inputs, output_hidden_states=True, use_cache=False)
    logits, reference = student.logits.float(), teacher.logits.float()
    ce = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED
    )
    kl = F.kl_div(
        F.log_softmax(logits, dim=-1).flatten(0, 1),
        F.log_softmax(reference, dim=-1).flatten(0, 1),
        log_target=True,
        reduction="batchmean",
    )
    mask = inputs["attention_mask"].bool()
    distance = torch.zeros((), device=logits.device)
    for ours, theirs in module.layers.alignment:
        a, b = student.hidden_states[ours].float(), teacher.hidden_states[theirs].float()
        distance = distance + (1 - F.cosine_similarity(a, b, dim=-1))[mask].mean()
    weights = module.loss
    pairs = len(module.layers.alignment)
    return weights.ce * ce + weights.kl * kl + weights.alignment / pairs * distance


def machine_facts(device: str) -> list[str]:
    """Processor or GPU, and torch."""
    if device == "cuda":
        return [torch.cuda.get_device_name(), f"torch {torch.__version__}"]
    return [processor(), f"{torch.get_num_threads()} threads", f"torch {torch.__version__}"]


if __name__ == "__main__":
    main()
