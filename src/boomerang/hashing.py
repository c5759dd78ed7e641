"""What a checkpoint is, told by its content and not by its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .errors import CheckpointError

_CHUNK = 1 << 20


def short_hash(data: str | bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of bytes, or of text in UTF-8."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def file_hash(path: str | Path) -> str:
    """The short hash of a file's bytes, which are streamed; raises `OSError`."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def content_hash(directory: str | Path) -> str:
    """A short hash of a checkpoint: its `config.json` and every safetensors file, in full.

    Names and lengths of the files are hashed with them, so that no two checkpoints that differ in
    a weight, a config value or the split into shards share a hash. The bytes are streamed.

    Args:
        directory: A checkpoint directory.

    Returns:
        The first 16 hexadecimal digits of a SHA-256.

    Raises:
        CheckpointError: No directory, or one without `config.json` or safetensors files.
    """
    directory = Path(directory)
    config, weights = directory / "config.json", sorted(directory.glob("*.safetensors"))
    if not config.is_file() or not weights:
        missing = "safetensors files" if config.is_file() else "config.json"
        raise CheckpointError(
            f"has no {missing}", where=directory, fix="give a checkpoint directory"
        )
    digest = hashlib.sha256()
    for path in (config, *weights):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]
