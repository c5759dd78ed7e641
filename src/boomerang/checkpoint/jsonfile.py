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

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object a JSON file holds.

    Raises:
        CheckpointError: The file is missing, no plain file, too long, not UTF-8, no JSON object,
            or spells text that has no UTF-8.
    """
    try:
        text = read_bounded(path, MAX_BYTES).decode()
        content = json.loads(text)
        # Half of a surrogate pair can only come from an escape, and hardly any file has one.
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
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
