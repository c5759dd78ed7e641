"""One writer at a time in an output directory, and what a disk refuses in one line."""

from __future__ import annotations

import errno
import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import BoomerangError, OutputError

try:
    import fcntl
except ImportError:  # Windows: no locks, and leftovers of killed runs stay
    fcntl = None  # type: ignore[assignment]

LOCK = ".boomerang-lock"

# `.X.boomerang-partial-...` beside an output X is what grows there before it is given the name.
PARTIAL = ".boomerang-partial-"

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}

# Which thread of this process holds which directories.
_held: set[tuple[Path, int]] = set()


@contextmanager
def locked(directory: Path, *, when: bool = True, wait: float = 0.0) -> Iterator[None]:
    """Makes a directory and keeps other processes that write into it out during the block.

    The kernel holds the lock for an open file, so it ends with the process, however that ends.
    Temporary files of killed processes are removed. Whoever holds it may take it again. A
    directory that is made here and still empty when the block fails is removed.

    Args:
        directory: The output directory.
        when: False in those of several processes that do not write.
        wait: Seconds to wait for another process that holds the lock.

    Raises:
        OutputError: Another process holds the lock; the directory cannot be written, or the disk
            becomes full during the block.
    """
    home = Path(os.path.realpath(directory))
    mine = (home, threading.get_ident())
    if not when or mine in _held:
        yield
        return
    with disk_errors(directory), ExitStack() as undo:
        try:
            undo.enter_context(parents(home / LOCK))
            descriptor = _take(home / LOCK, directory, time.monotonic() + wait)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=directory) from None
        undo.callback(os.close, descriptor)
        # Removed while it is held, so that nobody is locked out of a file that has gone.
        undo.callback(_remove, home / LOCK, descriptor)
        undo.callback(_held.discard, mine)
        _held.add(mine)
        remove_dead_files(home, f".*{PARTIAL}*")
        yield


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns a full disk, and what else a disk refuses, into one line about the output."""
    try:
        yield
    # Not `Exception`: torch.distributed.checkpoint raises something else.
    except BaseException as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise OutputError(f"cannot be written ({reason})", where=out) from None


def _disk_reason(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return error.strerror if error.errno in _DISK else None
    if isinstance(error, BoomerangError):
        return None
    # safetensors and torch wrap what the system said in errors of their own.
    text = str(error)
    number = re.search(r"(?:os error |\[Errno )(\d+)", text)
    if number is not None and int(number[1]) in _DISK:
        return os.strerror(int(number[1]))
    # Where torch finds a file shorter than what it wrote.
    failed = re.search(r"inline_container.*unexpected pos|PytorchStreamWriter failed", text)
    return "the disk is full or the file too large" if failed else None


@contextmanager
def parents(path: Path) -> Iterator[None]:
    """Makes the missing parents of a path; on an error those it made go again, if still empty."""
    made: list[Path] = []
    try:
        for parent in reversed(path.parents):
            if not parent.exists():
                with suppress(FileExistsError):
                    parent.mkdir()
                    made.append(parent)
        yield
    except BaseException:
        for parent in reversed(made):
            with suppress(OSError):
                parent.rmdir()
        raise


def remove_dead_files(directory: Path, pattern: str) -> None:
    """Remove the temporary files of processes that have ended."""
    if fcntl is None:
        return
    for path in directory.glob(pattern):
        process = path.name.rpartition("-")[2]
        if process.isdecimal() and path.is_file():
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                path.unlink(missing_ok=True)
            except (OSError, OverflowError):
                continue


def _take(path: Path, directory: Path, deadline: float) -> int:
    """The descriptor of a lock file that is ours now and says so."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if flock(descriptor) is False:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    os.close(descriptor)
                    continue
                holder = os.read(descriptor, 256).decode(errors="replace").strip()
                raise OutputError(
                    f"{f'process {holder}' if holder else 'another process'} is writing here",
                    where=directory,
                    fix="wait for it to end, or name another directory",
                )
            # The last holder may have removed the file between our opening and locking it.
            with suppress(FileNotFoundError):
                if os.path.samefile(path, descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"{os.getpid()} on {platform.node()}\n".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove(path: Path, descriptor: int) -> None:
    """Remove a lock file, unless a new directory with another writer has taken its place."""
    with suppress(FileNotFoundError):
        if os.path.samefile(path, descriptor):
            path.unlink()


def flock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the file system knows no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
