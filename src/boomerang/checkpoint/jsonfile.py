"""JSON files as anyone may have written them: bounded in size, refused in one line when broken."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

# The largest index of a published model has some 10 MB; a file beyond this is no honest one.
MAX_BYTES = 32 * 1024 * 1024

# How the text begins that Git leaves in the place of a large file that was not fetched.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
IS_POINTER = {
    "what": "is a Git LFS pointer and not the file itself",
    "fix": "run `git lfs pull` in its directory",
}

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object a JSON file holds.

    Raises:
        CheckpointError: The file is missing, no plain file, too long, not UTF-8, no JSON object,
            or spells text that has no UTF-8.
    """
    try:
        data = read_bounded(path, MAX_BYTES)
        if data.startswith(LFS_POINTER):
            raise CheckpointError(**IS_POINTER, where=path)
        text = data.decode()
        content = json.loads(text)
        # Half of a surrogate pair can only come from an escape, and hardly any file has one.
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot be read as JSON ({_reason(error)})", where=path) from None
    if not isinstance(content, dict):
        raise CheckpointError("is no JSON object", where=path)
    return content


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of at most `limit` bytes.

    Raises:
        CheckpointError: The file is missing, no plain file, or longer.
    """
    try:
        status = path.stat()
        # Opening a pipe would wait for a writer.
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("is no file", where=path)
        if status.st_size > limit:
            raise CheckpointError(f"has {status.st_size} bytes, more than {limit}", where=path)
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", where=path) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "an escape spells half of a surrogate pair, which is no character"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
