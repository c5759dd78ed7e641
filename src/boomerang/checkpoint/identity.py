"""Who a checkpoint is, so that a change is noticed later without reading all of it."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .convert import read_exactly
from .header import Tensor
from .resolve import Reference

_SAMPLE = 4096
# The bits of the exponent, by dtype, and how `array` reads as many bits as a whole number.
_EXPONENTS = {"BF16": ("H", 0x7F80), "F16": ("H", 0x7C00), "F32": ("I", 0x7F800000)}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Identity:
    """A checkpoint that went into another one.

    Args:
        id: The hub id without a revision, or the directory as an absolute path without links.
        revision: The commit of a model from the hub; None for a directory.
        fingerprint: As `fingerprint` computes it.
    """

    id: str
    revision: str | None
    fingerprint: str


def identify(reference: str, directory: Path, tensors: Iterable[Tensor]) -> Identity:
    """Who the checkpoint is that a user named and that lies in a directory."""
    named = Reference.parse(reference)
    if Path(named.name).is_dir():
        name, revision = str(directory.resolve()), None
    else:
        is_commit = _COMMIT.fullmatch(directory.name)
        name, revision = named.name, directory.name if is_commit else named.revision
    return Identity(name, revision, fingerprint(directory, tensors))


def fingerprint(directory: Path, tensors: Iterable[Tensor]) -> str:
    """A hash that any training step, conversion or other version of a checkpoint changes.

    SHA-256 over `config.json` and, for each weight file by name: its name, its size, and for each
    tensor in the order of its bytes the name, dtype, shape and first 4 KiB. It takes milliseconds,
    and misses a change behind the first 4 KiB; `hashing.content_hash` reads every byte.

    Raises:
        CheckpointError: A file cannot be read, or a tensor begins with NaN, as those of a model
            whose training diverged do.
    """
    by_file: dict[Path, list[Tensor]] = {}
    for tensor in tensors:
        by_file.setdefault(tensor.file, []).append(tensor)
    digest = hashlib.sha256()
    try:
        digest.update((directory / "config.json").read_bytes())
        for path in sorted(by_file):
            digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb", buffering=0) as file:
                for tensor in sorted(by_file[path], key=lambda tensor: tensor.start):
                    digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
                    length = min(_SAMPLE, tensor.length)
                    sample = read_exactly(file.fileno(), tensor, 0, length)
                    if _begins_with_nan(tensor.dtype, sample):
                        raise not_finite(tensor.name, tensor.dtype, path)
                    digest.update(sample)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=directory) from None
    return f"sampled-sha256:{digest.hexdigest()}"


def not_finite(name: str, dtype: object, where: Path) -> CheckpointError:
    """The error of a tensor that holds NaN or an infinity."""
    return CheckpointError(
        f"tensor {name} has NaN or infinite values in {dtype}",
        where=where,
        fix="the checkpoint is damaged, its training diverged, or the dtype is too narrow",
    )


def _begins_with_nan(dtype: str, sample: bytes) -> bool:
    """Whether one of the first 16 numbers is NaN: an exponent of ones, and further bits set."""
    if dtype not in _EXPONENTS:
        return False
    code, exponent = _EXPONENTS[dtype]
    numbers = array(code, sample[: 16 * array(code).itemsize])
    sign = 1 << (8 * numbers.itemsize - 1)
    return any(number & (sign - 1) > exponent for number in numbers)
