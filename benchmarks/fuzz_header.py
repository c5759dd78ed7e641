"""Ten thousand damaged safetensors headers: each is read or refused by a typed error.

    python benchmarks/fuzz_header.py [CASES]

Starts from good files and changes, cuts, repeats and inserts bytes and fragments of JSON. Anything
but a `CheckpointError` ends the run with the seed of the case. Prints what happened and the memory
it took.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

from boomerang.checkpoint.header import read_header
from boomerang.errors import CheckpointError

FRAGMENTS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"true",
    b"NaN", b"-1", b"1e999", b"9" * 30, b"\xff", b"\xef\xbb\xbf", b"\x00", b"__metadata__",
    b"dtype", b'"shape":[2]', b'"data_offsets":[0,8]', b"[" * 3000, b'{"a":' * 3000, b" " * 3000,
    b"F31",
]  # fmt: skip


def good_file(rng: random.Random) -> bytes:
    """A valid file with a few tensors."""
    header: dict[str, object] = {}
    if rng.random() < 0.5:
        header["__metadata__"] = {"format": "pt", "note": '}{"\\'}
    end = 0
    for i in range(rng.randrange(6)):
        dtype, size = rng.choice([("F32", 4), ("BF16", 2), ("U8", 1), ("F8_E4M3", 1)])
        shape = [rng.randrange(4) for _ in range(rng.randrange(3))]
        begin, end = (
            end,
            end + size * (1 if not shape else shape[0] * (shape[-1] if shape[1:] else 1)),
        )
        header[f"model.layers.{i}.näme"] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [begin, end],
        }
    raw = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(end)


def damage(good: bytes, rng: random.Random) -> bytes:
    """One to four changes of a file; half of the time the header's length is set right again."""
    raw = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            raw[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del raw[at : at + rng.randrange(1, 20)]
        elif kind == 2:
            raw[at:at] = rng.choice(FRAGMENTS)
        elif kind == 3:
            other = rng.randrange(len(raw) + 1)
            raw[at:at] = raw[other : other + rng.randrange(1, 60)]
        else:
            raw[:8] = rng.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(raw)]).to_bytes(8, "little")
    if rng.random() < 0.5 and len(raw) > 8:
        raw[:8] = min(len(raw) - 8, len(good)).to_bytes(8, "little")
    return bytes(raw)


def main() -> None:
    """Run the cases and print the result."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    outcomes: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        for seed in range(cases):
            rng = random.Random(seed)
            path.write_bytes(damage(good_file(rng), rng))
            try:
                read_header(path)
                outcomes["read"] += 1
            except CheckpointError:
                outcomes["refused"] += 1
            except BaseException as error:
                raise SystemExit(f"case {seed}: {type(error).__name__}: {error}") from error
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{cases} cases: {outcomes['read']} read, {outcomes['refused']} refused with a "
        f"CheckpointError, nothing else; memory grew by {grown / 1024:.1f} MiB"
    )


if __name__ == "__main__":
    main()
