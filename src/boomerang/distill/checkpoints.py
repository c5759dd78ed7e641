"""Checkpoints of a run on disk: which are complete, and which to go on from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoint.output import new_directory, write_json
from ..errors import OutputError

# Where a checkpoint grows; nothing looks for checkpoints in here.
PARTIAL = "partial"
# In each checkpoint: the size and SHA-256 of its other files.
HASHES = "hashes.json"


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint in a directory whose files are all there in full length."""
    whole = (path for path in reversed(_checkpoints(directory)) if not damage(path, content=False))
    return next(whole, None)


def checkpoint_to_resume(directory: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are as they were written; None where there is none.

    Removes damaged ones that are newer, and what a killed run left half-written.

    Args:
        directory: Holds the checkpoints.
        say: Called with a line for each damaged checkpoint.

    Raises:
        OutputError: There are checkpoints, and each is damaged; they are left as they are.
    """
    _remove_partial(directory)
    damaged: dict[Path, str] = {}
    for path in reversed(_checkpoints(directory)):
        problem = damage(path)
        if problem is None:
            for other, words in damaged.items():
                say(f"{other.name} is damaged ({words}); going on from {path.name}")
                shutil.rmtree(other)
            return path
        damaged[path] = problem
    if damaged:
        path, problem = next(iter(damaged.items()))
        raise OutputError(
            f"has no checkpoint to go on from: {path.name} is damaged ({problem}), and so are the "
            "older ones",
            where=directory,
            fix="restore it from a copy, or remove the directory to begin anew",
        )
    return None


def remove_all(directory: Path) -> None:
    """Remove all checkpoints, and the directory itself unless something else is in it."""
    _remove_partial(directory)
    for path in _checkpoints(directory):
        shutil.rmtree(path)
    # Some trackers write in there, too.
    with suppress(OSError):
        directory.rmdir()


def publish(partial: Path, final: Path) -> None:
    """Give a written checkpoint its hashes and its name, once it is on the disk.

    Args:
        partial: The written checkpoint, alone in its parent, which is removed.
        final: Its name.
    """
    # A run that goes on from a step and is stopped before the next one has that checkpoint already.
    if not final.exists() or damage(final, content=False):
        shutil.rmtree(final, ignore_errors=True)
        with new_directory(final) as whole:
            for file in partial.iterdir():
                file.replace(whole / file.name)
            write_json(whole / HASHES, _describe(whole))
    shutil.rmtree(partial.parent)


def damage(checkpoint: Path, *, content: bool = True) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None when nothing is.

    Args:
        checkpoint: Its directory.
        content: Whether to compare the files' hashes, which reads them whole, or their sizes alone.
    """
    try:
        recorded: dict[str, Any] = json.loads((checkpoint / HASHES).read_text())
        if not recorded:
            raise ValueError
        for name, file in recorded.items():
            if (checkpoint / name).stat().st_size != file["bytes"]:
                return f"{name} has another length"
        if content:
            for name, found in _describe(checkpoint).items():
                if name in recorded and found != recorded[name]:
                    return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return str(error.strerror)
    except (ValueError, TypeError, LookupError, AttributeError):
        return f"{HASHES} cannot be read"
    return None


def _describe(directory: Path) -> dict[str, dict[str, Any]]:
    """The size and SHA-256 of each file by its path in a directory."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    files = [path for path in files if path != directory / HASHES]
    with ThreadPoolExecutor(4) as pool:
        hashes = pool.map(_sha256, files)
        return {
            str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": found}
            for path, found in zip(files, hashes, strict=True)
        }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_partial(directory: Path) -> None:
    for path in (directory / PARTIAL, *directory.glob(f".{PREFIX_CHECKPOINT_DIR}-*")):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(directory: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    found = {
        path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"): path
        for path in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    return [found[step] for step in sorted(filter(str.isdecimal, found), key=int)]
