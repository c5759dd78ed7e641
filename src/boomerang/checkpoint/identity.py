"""What a checkpoint was, told later and without reading it through."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from .convert import read_exactly
from .header import Tensor
from .resolve import Reference
from .weights import weight_files

_SAMPLE = 4096
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Identity:
    """A checkpoint that went into another one.

    Args:
        id: The hub id without a revision, or the directory as an absolute path without links, so
            that it is found from anywhere and one directory has one name.
        revision: The commit of a model from the hub; None for a directory.
        fingerprint: As `fingerprint` computes it.
    """

    id: str
    revision: str | None
    fingerprint: str


def identify(reference: str | Path, directory: Path, tensors: Iterable[Tensor]) -> Identity:
    """Who a checkpoint is.

    Args:
        reference: What the user named.
        directory: Where that was found.
        tensors: Its tensors.
    """
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
    tensor in the order of its bytes the name, dtype, shape and first 4 KiB. Unlike
    `hashing.content_hash`, which reads every byte, it costs milliseconds; a change hidden behind
    the first 4 KiB of a tensor is not seen.

    Raises:
        CheckpointError: A file cannot be read.
    """
    by_file: dict[Path, list[Tensor]] = {}
    for tensor in tensors:
        by_file.setdefault(tensor.file, []).append(tensor)
    digest = hashlib.sha256()
    try:
        digest.update((directory / "config.json").read_bytes())
        for path in weight_files(tensor for group in by_file.values() for tensor in group):
            digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb", buffering=0) as file:
                for tensor in sorted(by_file[path], key=lambda tensor: tensor.start):
                    digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
                    length = min(_SAMPLE, tensor.length)
                    digest.update(read_exactly(file.fileno(), tensor, 0, length))
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=directory) from None
    return f"sampled-sha256:{digest.hexdigest()}"
