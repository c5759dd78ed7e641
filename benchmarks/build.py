"""What it costs to build one member of a 1.39B-parameter pair, beside two other ways.

    python benchmarks/build.py WORK_DIRECTORY

Writes some 40 GB, 12 at a time, into a directory of its own there and removes them. Measured are
the whole command `boomerang build`; `cp` of the very same files followed by `sync` of the copy; and
the member loaded, patched and saved through transformers. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine, processor

import boomerang
from boomerang.checkpoint.student_config import write_student_config

KEPT = (0, *range(1, 28, 2))
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 5632,
    "vocab_size": 32000,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "dtype": "bfloat16",
    "transformers_version": "5.0.0",
}
LAYER = {
    "input_layernorm": (2048,),
    "mlp.down_proj": (2048, 5632),
    "mlp.gate_proj": (5632, 2048),
    "mlp.up_proj": (5632, 2048),
    "post_attention_layernorm": (2048,),
    "self_attn.k_proj": (1024, 2048),
    "self_attn.o_proj": (2048, 2048),
    "self_attn.q_proj": (2048, 2048),
    "self_attn.v_proj": (1024, 2048),
}
PATCH = 7

THROUGH_TRANSFORMERS = """
import sys
from boomerang import Family
teacher, student, out, patch = sys.argv[1:]
Family.from_pretrained(teacher, student).model(patch=int(patch)).save_pretrained(out)
"""


def write_model(directory: Path, depth: int, rng: random.Random, width: int = 2) -> None:
    """A checkpoint of the shape with random numbers of a sane size, `width` bytes each."""
    shapes = {"model.embed_tokens": (32000, 2048), "model.norm": (2048,)}
    for i in range(depth):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in LAYER.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + width * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[f"{name}.weight"] = {
            "dtype": {2: "BF16", 4: "F32"}[width],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    pool = bytearray(rng.randbytes(16 * 1024 * 1024))
    # The uppermost byte is the sign and most of the exponent: numbers around 0.01.
    upper = bytes(0x3C | (b & 0x80) for b in range(256))
    pool[width - 1 :: width] = pool[width - 1 :: width].translate(upper)
    directory.mkdir()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        left = end
        while left:
            # Another piece each time, so that no two tensors are equal.
            start = width * rng.randrange(len(pool) // 2 // width)
            left -= file.write(pool[start : start + left])
        os.fsync(file.fileno())
    (directory / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": depth}))
    if depth == len(KEPT):
        write_student_config(directory, boomerang.LayerMap(KEPT, 28))


# A process's peak begins with that of the one it was forked from: commands are run from a bare one.
LAUNCHER = """
import json, os, sys, time
peak, start = 0, time.perf_counter()
for command in json.loads(sys.argv[1]):
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        sys.exit("failed: " + " ".join(command))
    peak = max(peak, usage.ru_maxrss)
print(json.dumps([time.perf_counter() - start, peak]))
"""


def measure(*commands: list[str]) -> tuple[float, int]:
    """Wall time in seconds and the largest resident memory in KiB of commands one after another."""
    os.sync()
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, json.dumps(commands)]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, check=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    """Make the models, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="with 12 GB of free space")
    parser.add_argument("--repeats", type=int, default=5, help="of each way but the slowest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(
        prefix="boomerang-benchmark-", dir=arguments.directory
    ) as name:
        report(Path(name), arguments.repeats)


def report(work: Path, repeats: int) -> None:
    """Measure in a directory and print the table."""
    rng = random.Random(0)
    names = ("teacher", "student", "student-float32", "out", "copy")
    teacher, student, wide, out, copy = (work / name for name in names)
    write_model(teacher, 28, rng)
    write_model(student, len(KEPT), rng)
    write_model(wide, len(KEPT), rng, width=4)
    python = sys.executable
    options = ["-m", "boomerang", "build", str(teacher)]
    command = [python, *options, str(student), str(out), "--patch", str(PATCH)]
    widened = [python, *options, str(wide), str(out), "--patch", str(PATCH)]
    bare = min(measure([python, "-c", "pass"])[1] for _ in range(3))
    ours, theirs, converting = [], [], []
    for _ in range(repeats):
        ours.append(measure(command))
        files = [str(path) for path in sorted(out.iterdir())]
        copy.mkdir()
        theirs.append(
            measure(
                ["cp", *files, str(copy)],
                ["sync", *(str(copy / Path(file).name) for file in files), str(copy)],
            )
        )
        size = sum(path.stat().st_size for path in out.iterdir())
        shutil.rmtree(copy)
        shutil.rmtree(out)
    for _ in range(2):
        converting.append(measure(widened))
        shutil.rmtree(out)
    arguments = [str(teacher), str(student), str(out), str(PATCH)]
    loading = measure([python, "-c", THROUGH_TRANSFORMERS, *arguments])
    wall, cp_wall = (statistics.median(t for t, _ in runs) for runs in (ours, theirs))
    print(f"{describe_machine(*machine_facts(work))}\n")
    print(
        f"One member, {size / 1e9:.2f} GB, of a 1.39B-parameter teacher in bfloat16, patch {PATCH}."
    )
    print(f"Medians of {repeats} runs with the sources in the page cache.\n")
    print("| way | wall time (s) | to cp | peak memory (MiB) | over a bare interpreter (MiB) |")
    print("|---|---|---|---|---|")
    for label, runs in (
        ("`boomerang build`", ours),
        ("`cp` of the same files, `sync` of the copy", theirs),
        ("`boomerang build` from a student in float32", converting),
        ("transformers: load both, patch, save", [loading]),
    ):
        seconds = statistics.median(t for t, _ in runs)
        peak = max(p for _, p in runs)
        over = "" if label.startswith("`cp`") else f"{(peak - bare) / 1024:.0f}"
        print(
            f"| {label} | {seconds:.2f} | {seconds / cp_wall:.2f}x | {peak / 1024:.0f} | {over} |"
        )
    bound = 1.15 * cp_wall + 0.5
    spread = ", ".join(f"{t:.2f}" for t, _ in ours), ", ".join(f"{t:.2f}" for t, _ in theirs)
    print(f"\nSingle runs: build {spread[0]}; cp and sync {spread[1]} s.")
    verdict = "held" if wall <= bound else "MISSED"
    print(f"Bound: 1.15 x {cp_wall:.2f} s + 0.5 s = {bound:.2f} s, {verdict}.")


def machine_facts(work: Path) -> list[str]:
    """Processor, memory, file system and kernel."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        processor(),
        f"{os.cpu_count()} cores",
        f"{memory:.0f} GiB of memory",
        f"file system {kind}",
        f"{platform.system()} {platform.release().split('-')[0]}",
    ]


if __name__ == "__main__":
    main()
