"""Measuring every member of a family in one pass, beside lm-evaluation-harness member after member.

    OMP_NUM_THREADS=1 python benchmarks/evaluate.py [--model 12x128|24x256] [--order last-to-first]
        [--repeats 3] [--scale 1.0] [--members 2,4,8,all] [--processes] [--tiny]

Random models (Qwen3 with every second layer kept) and random words: time does not depend on what
they mean. Three kinds of task: choices (four continuations of 4 to 16 tokens behind a context of 64
to 192), sentences (pairs of 16 to 48 tokens behind the first token) and rolling (512 tokens).

One pass is `boomerang.evaluate`'s own path into a new directory. The loop is the harness's `HFLM`
on each member in memory, over tasks that are built once. Both take turns, each run in a process of
its own that starts with the models in memory; compared are the medians of CPU time, which other
work on the machine disturbs less than elapsed time, and the largest memory beyond the models. With
`--processes` also whole commands: `boomerang evaluate`, and `lm_eval --model hf` for each built
member, with the start of the interpreter and all loading. Both ways must give the same metrics.
Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from machine import describe_machine, processor
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from boomerang import Family, LayerMap, Member, build
from boomerang.checkpoint.student_config import write_student_config
from boomerang.evaluate.measure import measure
from boomerang.evaluate.options import Measure
from boomerang.evaluate.tasks import quiet
from boomerang.layers import FIRST_TO_LAST, LAST_TO_FIRST
from boomerang.student import cut

# Layers, width, vocabulary.
MODELS = {"tiny": (6, 32, 256), "12x128": (12, 128, 4096), "24x256": (24, 256, 32000)}
MAX_LENGTH = 1024
BATCH_SIZE = 8

Metrics = dict[tuple[int, ...], dict[str, float]]
Way = Callable[[Family, Sequence[Member], Path, str], Metrics]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="12x128")
    parser.add_argument("--order", choices=(LAST_TO_FIRST, FIRST_TO_LAST), default=None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of documents")
    parser.add_argument("--members", default="all", help="how many members, evenly chosen")
    parser.add_argument("--processes", action="store_true", help="whole commands too")
    parser.add_argument("--tiny", action="store_true", help="figures that say nothing, at once")
    args = parser.parse_args(argv)
    if args.tiny:
        args.model, args.repeats, args.scale, args.members = "tiny", 1, 0.1, "2"
    family = make_family(*MODELS[args.model])
    orders = (LAST_TO_FIRST, FIRST_TO_LAST) if args.order is None else (args.order,)
    print(describe_machine(processor(), f"{torch.get_num_threads()} threads"), end="\n\n")
    with tempfile.TemporaryDirectory() as directory:
        tasks = write_tasks(Path(directory), MODELS[args.model][2], args.scale)
        compare_in_memory(family, orders, args.members.split(","), tasks, args.repeats)
        if args.processes:
            compare_processes(family, orders[0], tasks)


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
        head_dim=max(4, width // 8),
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


def make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """A token for each of the words w0, w1, ..."""
    words = {f"w{index}": index for index in range(vocab)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", eos_token="w0", pad_token="w0"
    )


def write_tasks(directory: Path, vocab: int, scale: float) -> Path:
    """Task files of three kinds, about as much work each for a member alone."""
    generator = random.Random(0)

    def text(least: int, most: int) -> str:
        count = generator.randint(least, most)
        return " ".join(f"w{generator.randrange(1, vocab)}" for _ in range(count))

    def count(number: int) -> range:
        return range(max(2, round(scale * number)))

    documents: dict[str, list[dict[str, Any]]] = {
        "choices": [
            {"context": text(64, 192), "choices": [text(4, 16) for _ in range(4)]}
            for _ in count(32)
        ],
        "sentences": [
            {"context": "", "choices": [text(16, 48) for _ in range(2)]} for _ in count(192)
        ],
        "rolling": [{"text": text(512, 512)} for _ in count(24)],
    }
    choosing = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity"} | LOWER_IS_BETTER
        ],
    }
    for task, rows in documents.items():
        data = directory / f"{task}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(data)},
                "cache_dir": str(directory / ".cache"),
            },
            "test_split": "test",
            "metadata": {"version": 1.0},
            **(rolling if task == "rolling" else choosing),
        }
        (directory / f"{task}.yaml").write_text(yaml.safe_dump(config))
    return directory


LOWER_IS_BETTER = {"higher_is_better": False}
TASKS = ("choices", "sentences", "rolling")


def choose(members: Sequence[Member], count: str) -> tuple[Member, ...]:
    """As many members as wanted, from the smallest to the largest."""
    if count == "all":
        return tuple(members)
    last = len(members) - 1
    number = min(int(count), len(members))
    return tuple(members[round(i * last / (number - 1))] for i in range(number))


def compare_in_memory(
    family: Family, orders: Sequence[str], counts: Sequence[str], tasks: Path, repeats: int
) -> None:
    """One pass beside the loop over members in memory."""
    print("| order | members | task | one pass, s | loop, s | ratio | MiB | MiB of the loop |")
    print("|---" * 8 + "|", flush=True)
    ratios = []
    for order in orders:
        family_members = family.layers.members(order)
        for members in dict.fromkeys(choose(family_members, count) for count in counts):
            for task in TASKS:
                runs = [
                    [in_a_process(way, family, members, tasks, task) for way in (one_pass, loop)]
                    for _ in range(repeats)
                ]
                check(*(metrics for _, _, metrics in runs[0]))
                ours, theirs = (median(run[way][0] for run in runs) for way in (0, 1))
                memory = [median(run[way][1] for run in runs) for way in (0, 1)]
                if members == family_members:
                    ratios.append(theirs / ours)
                print(
                    f"| {order} | {len(members)} | {task} | {ours:.2f} | {theirs:.2f} "
                    f"| {theirs / ours:.2f} | {memory[0]:.0f} | {memory[1]:.0f} |",
                    flush=True,
                )
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"\nAll members: geometric mean {mean:.2f}, least {min(ratios):.2f}.")


def one_pass(family: Family, members: Sequence[Member], tasks: Path, task: str) -> Metrics:
    """All members at once, into a new directory."""
    with tempfile.TemporaryDirectory() as out:
        rows = measure(
            family,
            out,
            Measure.of({"tasks": task, "include_path": tasks}),
            make_tokenizer(family.teacher.config.vocab_size),
            teacher_hash="teacher",
            student_hash="student",
            members=members,
        )
    found: Metrics = {member.patched: {} for member in members}
    for row in rows:
        if not row.metric.endswith("_difference"):
            found[row.member][row.metric] = row.value
    return found


def loop(family: Family, members: Sequence[Member], tasks: Path, task: str) -> Metrics:
    """Each member alone, through the harness; its requests are built once."""
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load([task])
    of_harness = loaded["tasks"][task]
    of_harness.set_config(key="num_fewshot", value=0)
    of_harness.set_fewshot_seed(1234)
    of_harness.build_all_requests()
    of_harness.build_all_requests = lambda **_: None
    tokenizer = make_tokenizer(family.teacher.config.vocab_size)
    found: Metrics = {}
    for member in members:
        for instance in of_harness.instances:
            instance.resps, instance.filtered_resps = [], {}
        model = HFLM(pretrained=family.model(member), tokenizer=tokenizer, batch_size=BATCH_SIZE)
        results = lm_eval.evaluate(lm=model, task_dict=loaded, log_samples=False)
        found[member.patched] = metrics_of(results["results"][task])
    return found


def metrics_of(results: dict[str, Any]) -> dict[str, float]:
    """The metrics in the harness's results of a task."""
    return {
        key.removesuffix(",none"): value
        for key, value in results.items()
        if key.endswith(",none") and "_stderr" not in key
    }


def in_a_process(
    way: Way, family: Family, members: Sequence[Member], tasks: Path, task: str
) -> tuple[float, float, Metrics]:
    """CPU seconds, the largest memory beyond what was there in MiB, and the metrics."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_measure, (way, family, members, tasks, task))


def _measure(
    way: Way, family: Family, members: Sequence[Member], tasks: Path, task: str
) -> tuple[float, float, Metrics]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * resource.getpagesize()
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        start = time.process_time()
        metrics = way(family, members, tasks, task)
        seconds = time.process_time() - start
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, (most - before) / 2**20, metrics


def check(found: Metrics, expected: Metrics) -> None:
    """Both ways must give the same metrics."""
    for member, metrics in expected.items():
        for metric, value in metrics.items():
            if not math.isclose(found[member][metric], value, rel_tol=1e-4):
                raise SystemExit(f"{member} {metric}: {found[member][metric]}, not {value}")


def compare_processes(family: Family, order: str, tasks: Path) -> None:
    """`boomerang evaluate` beside one `lm_eval` for each built member, all tasks at once."""
    teacher, student = tasks / "teacher", tasks / "student"
    tokenizer = make_tokenizer(family.teacher.config.vocab_size)
    family.teacher.save_pretrained(teacher)
    family.student.save_pretrained(student)
    write_student_config(student, family.layers)
    tokenizer.save_pretrained(teacher)
    names = ",".join(TASKS)
    ours = [
        *("boomerang", "evaluate", str(teacher), str(student), str(tasks / "out")),
        *("--order", order, "--device", "cpu", "--tasks", names, "--include-path", str(tasks)),
    ]
    seconds, memory = command(ours)
    members = family.layers.members(order)
    runs = []
    for member in members:
        built = tasks / f"member-{member.num_layers}"
        build(teacher, student, built, patch=member.patch, order=order)
        theirs = [
            *("lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={built}"),
            *("--device", "cpu", "--batch_size", str(BATCH_SIZE)),
            *("--tasks", names, "--include_path", str(tasks)),
        ]
        runs.append(command(theirs))
    total = sum(each for each, _ in runs)
    print(f"\nWhole commands, {order}, {len(members)} members, all three tasks:\n")
    print("| way | CPU, s | largest memory, MiB |\n|---|---|---|")
    print(f"| `boomerang evaluate` | {seconds:.1f} | {memory:.0f} |")
    print(
        f"| `lm_eval --model hf`, {len(runs)} times | {total:.1f} | {max(m for _, m in runs):.0f} |"
    )
    print(f"\nRatio {total / seconds:.2f}.")


def command(words: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and the largest memory in MiB of a command of this environment."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
