"""Speed and memory of tokenising a text into rows.

    python benchmarks/prepare.py TEACHER TEXT [--copies 1,20,200] [--sequence-length 1024]

Writes TEXT so many times into one file, prepares its rows in a process of its own, and prints
tokens, tokens per second and the memory above what the process had before the first token.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from boomerang.checkpoint.loading import load_tokenizer
from boomerang.text.data_section import Data
from boomerang.text.prepare import load_rows, prepare_rows


def main() -> None:
    """Print a line for each size, or do one of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--copies", default="1,20,200")
    parser.add_argument("--sequence-length", type=int, default=1024)
    args = parser.parse_args()
    copies = args.copies.split(",")
    if len(copies) == 1:
        measure(args.teacher, args.text, int(copies[0]), args.sequence_length)
        return
    for number in copies:
        command = [sys.executable, __file__, str(args.teacher), str(args.text), "--copies", number]
        subprocess.run([*command, "--sequence-length", str(args.sequence_length)], check=True)


def measure(teacher: Path, text: Path, copies: int, length: int) -> None:
    """Prepare so many copies of a text, in this process."""
    with tempfile.TemporaryDirectory() as work:
        path, out = Path(work) / text.name, Path(work) / "data"
        content = text.read_bytes()
        with path.open("wb") as file:
            for _ in range(copies):
                file.write(content)
        tokenizer = load_tokenizer(teacher)
        once = Data(files=[str(text)], sequence_length=length)
        prepare_rows(once, tokenizer, out, "once")
        before, began = peak(), time.perf_counter()
        data = Data(files=[str(path)], sequence_length=length)
        prepare_rows(data, tokenizer, out, "all")
        seconds, above = time.perf_counter() - began, peak() - before
        rows, _ = load_rows(data, out)
        tokens = len(rows) * length
        print(
            f"{path.stat().st_size / 1e6:.1f} MB  {tokens:,} tokens  "
            f"{tokens / seconds:,.0f} tokens/s  {above:.0f} MiB more than one copy"
        )


def peak() -> float:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
