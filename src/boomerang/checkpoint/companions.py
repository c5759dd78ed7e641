"""The files beside the weights that are as true of a member as of its teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import OutputError
from .weights import inside

_PATTERNS = (
    "tokenizer*", "special_tokens*", "added_tokens*", "*.tiktoken", "tekken.json", "vocab*",
    "merges.txt", "*.model", "*chat_template*", "*.jinja", "*processor*",
    "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
# What could match above and is something else: weights, and the files a member has of its own.
_NOT = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".py")


def copy_companions(source: Path, target: Path) -> None:
    """Copy generation config, tokenizer, chat template, processor and licence files.

    Args:
        source: A checkpoint directory.
        target: Another one; files that it already has are kept.

    Raises:
        CheckpointError: A file is a link that leads out of the checkpoint.
        OutputError: A file cannot be written.
    """
    for name in sorted({path.name for pattern in _PATTERNS for path in source.glob(pattern)}):
        if (source / name).is_dir() or name.endswith(_NOT) or (target / name).exists():
            continue
        path = inside(source, name)
        try:
            shutil.copyfile(path, target / name)
        except OSError as error:
            raise OutputError(f"cannot be copied ({error.strerror})", where=path) from None
