"""New files and directories that appear under their final name only when they are complete."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

try:
    import fcntl
except ImportError:  # not on Windows: leftovers of killed runs stay there
    fcntl = None  # type: ignore[assignment]

# Leftovers of a killed run are recognised by this and the name of the output they were for.
_MARK = ".boomerang-partial-"

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def new_directory(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill that becomes `out` at the end of the block, and vanishes on an error.

    What is in it is on the disk before it gets its final name. Leftovers of killed runs for the
    same `out` are removed; runs that are alive are left alone. Parents of `out` are made as needed,
    and vanish with it.

    Args:
        out: The final directory. It may exist when it is empty, or with `overwrite`.
        overwrite: Replace a directory that is not empty.

    Yields:
        A temporary directory beside `out`, on the same file system.

    Raises:
        OutputError: `out` is a file, is not empty without `overwrite`, cannot be written to, or the
            disk is full.
    """
    check_free(out, overwrite=overwrite)
    out = Path(os.path.realpath(out))
    with ExitStack() as undo:
        try:
            undo.enter_context(_parents(out))
            _remove_leftovers(out)
            partial, lock = _locked_directory(out)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=out) from None
        undo.callback(os.close, lock)
        undo.callback(shutil.rmtree, partial, ignore_errors=True)
        try:
            yield partial
            set_ordinary_permissions(partial)
            _sync(partial)
            _publish(partial, out, overwrite=overwrite)
        except OSError as error:
            if error.errno in _FULL:
                raise OutputError("no space is left on the disk", where=out.parent) from None
            raise


def check_free(out: Path, *, overwrite: bool = False) -> None:
    """Refuse an output that would have to be overwritten, or whose name cannot be told.

    Raises:
        OutputError: `out` is a file, or a directory that is not empty and `overwrite` is false, or
            no UTF-8.
    """
    try:
        str(out).encode()
        if out.exists() and not out.is_dir():
            raise OutputError("is a file", where=out, fix="name a directory")
        if out.is_dir() and any(out.iterdir()) and not overwrite:
            raise OutputError(
                "is not empty", where=out, fix="name another directory or use --overwrite"
            )
    except UnicodeEncodeError:
        where = str(out).encode(errors="replace").decode()
        raise OutputError("has a path that is not UTF-8", where=where) from None
    except OSError as error:
        raise OutputError(f"cannot be read ({error.strerror})", where=out) from None


def check_writable(directory: Path) -> None:
    """Refuse a directory that no file can be written into, or that cannot be made.

    Nothing is left behind; the directory is not made.

    Raises:
        OutputError: It is none, or cannot be written.
    """
    try:
        existing = next(
            path for path in (directory, *directory.absolute().parents) if path.exists()
        )
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=directory) from None


def check_space(out: Path, needed: int) -> None:
    """Refuse an output that the disk has no room for.

    Args:
        out: Where it shall be.
        needed: Its size in bytes.

    Raises:
        OutputError: Less is free.
    """
    try:
        parent = next(path for path in (out, *out.absolute().parents) if path.exists())
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=out) from None
    if free < needed:
        raise OutputError(
            f"needs {needed / 1e9:.3f} GB and the disk has {free / 1e9:.3f} GB left", where=out
        )


def set_ordinary_permissions(directory: Path) -> None:
    """Give a directory and its files the permissions that new ones have.

    Temporary directories are made private, and so are files that safetensors writes.
    """
    mask = _umask()
    for path in [directory, *directory.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}{_MARK}{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, content: object) -> None:
    """Write JSON for people to read; for a file in a directory that is not yet visible."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _parents(path: Path) -> Iterator[None]:
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


def _locked_directory(out: Path) -> tuple[Path, int]:
    """A new directory beside `out`, and the descriptor that tells others that its maker lives."""
    while True:
        try:
            partial = Path(tempfile.mkdtemp(prefix=f".{out.name}{_MARK}", dir=out.parent))
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            # Another run took it for a leftover, or ended and took along the parent it had made.
            out.parent.mkdir(parents=True, exist_ok=True)
            continue
        # Another run may have taken it for a leftover before it was locked.
        if _lock(lock) is not False and partial.exists():
            return partial, lock
        os.close(lock)


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the file system knows no locks.

    A lock goes with its process, however that ends, while a process number is soon used again.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _publish(partial: Path, out: Path, *, overwrite: bool) -> None:
    """Give a complete directory its name; an old one steps aside first."""
    while True:
        try:
            partial.rename(out)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise OutputError(f"cannot be written ({error.strerror})", where=out) from None
        # Not empty: it was so before, or a run at the same time was faster.
        check_free(out, overwrite=overwrite)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}{_MARK}", dir=out.parent))
        with suppress(FileNotFoundError):
            out.rename(aside / out.name)
        shutil.rmtree(aside, ignore_errors=True)
    _sync_one(out.parent)


def _sync(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        # Some file systems cannot sync a directory, and need not.
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _remove_leftovers(out: Path) -> None:
    for path in out.parent.glob(f".{glob.escape(out.name)}{_MARK}*"):
        if path.is_dir():
            with suppress(OSError):
                lock = os.open(path, os.O_RDONLY)
                try:
                    if _lock(lock):
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)


def _umask() -> int:
    # There is no way to read it other than to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
