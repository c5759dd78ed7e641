"""Outputs: complete or absent under their final name, one writer at a time, never over a source."""

from __future__ import annotations

import ctypes
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
from .lock import LOCK, PARTIAL, disk_errors, flock, locked, parents, remove_dead_files

# Hidden siblings of an output X: `.X.boomerang-partial-RANDOM` while it grows, and
# `.X.boomerang-done` for the moment in which it takes the place of an older one.
_DONE = ".boomerang-done"

# `--overwrite` replaces a directory that holds one of these.
_OURS = ("student_config.json", "boomerang.json", "baseline.json", "inputs.json")

_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Seconds for another process to put its own result in place.
_PATIENCE = 2.0
_ATTEMPTS = 10


def check_apart(out: Path, *sources: str | Path) -> None:
    """Refuse an output that is, holds, or lies inside one of the checkpoints it is made from.

    Args:
        out: The output: a directory, or a file.
        sources: Checkpoints as the user named them or where they were found; what is no directory
            (a hub id) is passed over.

    Raises:
        OutputError: It is.
    """
    target = Path(os.path.realpath(out))
    for source in map(Path, sources):
        home = Path(os.path.realpath(source))
        if not home.is_dir():
            continue
        relation = (
            "is" if target == home
            else "lies inside" if home in target.parents
            else "holds" if target in home.parents
            else None
        )  # fmt: skip
        if relation is not None:
            raise OutputError(
                f"{relation} the checkpoint {source}, which is read",
                where=out,
                fix="name another directory for the output",
            )


def check_free(out: Path, *, overwrite: bool = False) -> None:
    """Refuse an output directory that exists and may not be replaced.

    Raises:
        OutputError: `out` is a file; it is not empty, and `overwrite` is false or nothing in it
            says that this package made it; it cannot be read, or its path is not UTF-8.
    """
    try:
        str(out).encode()
        if out.exists() and not out.is_dir():
            raise OutputError("is a file", where=out, fix="name a directory")
        if not is_occupied(out):
            return
        if not overwrite:
            raise OutputError(
                "is not empty", where=out, fix="name another directory or use --overwrite"
            )
        if not any((out / name).is_file() for name in _OURS):
            raise OutputError(
                f"was not made by boomerang (it has none of {', '.join(_OURS)}), so --overwrite "
                "does not replace it",
                where=out,
                fix="name another directory, or remove this one yourself",
            )
    except UnicodeEncodeError:
        where = str(out).encode(errors="replace").decode()
        raise OutputError("has a path that is not UTF-8", where=where) from None
    except OSError as error:
        raise OutputError(f"cannot be read ({error.strerror})", where=out) from None


def is_occupied(out: Path) -> bool:
    """Whether a path is a file, or a directory that holds more than our own lock."""
    return out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir()))


def check_writable(directory: Path) -> None:
    """Refuse a directory that no file can be written into, or that cannot be made.

    Nothing is left behind; the directory is not made.

    Raises:
        OutputError: It is none, or cannot be written.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(directory)):
            pass
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=directory) from None


def check_space(out: Path, needed: int) -> None:
    """Refuse an output of `needed` bytes that the disk has no room for.

    Raises:
        OutputError: Less is free.
    """
    try:
        free = shutil.disk_usage(_existing(out)).free
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=out) from None
    if free < needed:
        raise OutputError(
            f"needs {needed / 1e9:.3f} GB and the disk has {free / 1e9:.3f} GB left", where=out
        )


@contextmanager
def new_directory(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill that becomes `out` at the end of the block, and vanishes on an error.

    Its content is on the disk before it gets its final name. An older `out` keeps the name until
    then and is removed afterwards. Leftovers of killed runs for the same `out` are removed; those
    of running processes stay. Missing parents are made, and removed again on an error.

    Args:
        out: The final directory. It may exist when it is empty, or with `overwrite`.
        overwrite: Replace a directory that this package made.

    Yields:
        A temporary directory beside `out`, on the same file system.

    Raises:
        OutputError: As `check_free`; `out` cannot be written, another process writes into it, or
            the disk is full.
    """
    check_free(out, overwrite=overwrite)
    named, out = out, Path(os.path.realpath(out))
    with disk_errors(named), ExitStack() as undo:
        # Refuse where a run is under way. Another build holds the lock only at its last step.
        with locked(named, when=out.exists(), wait=_PATIENCE):
            pass
        try:
            undo.enter_context(parents(out))
            _recover(out)
            partial, lock = _locked_directory(out)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=named) from None
        undo.callback(os.close, lock)
        undo.callback(shutil.rmtree, partial, ignore_errors=True)
        yield partial
        set_ordinary_permissions(partial)
        _sync(partial)
        try:
            _publish(partial, out, overwrite=overwrite)
        except OSError as error:
            raise OutputError(f"cannot be written ({error.strerror})", where=named) from None


def set_ordinary_permissions(directory: Path) -> None:
    """Give a directory and its files the permissions that new ones have.

    Temporary directories are made private, and so are files that safetensors writes.
    """
    # There is no way to read it other than to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    for path in [directory, *directory.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def write_text(path: Path, text: str) -> None:
    """Write a small file, and its parents, so that readers see the old or the new, never a part.

    Raises:
        OutputError: It cannot be written; the old content stays.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_dead_files(path.parent, f".{glob.escape(path.name)}{PARTIAL}*")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=path) from None


def write_json(path: Path, content: object) -> None:
    """Write JSON for people to read; for a file in a directory that is not yet visible."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _locked_directory(out: Path) -> tuple[Path, int]:
    """A new directory beside `out`, and the descriptor whose lock shows that its maker lives."""
    for attempt in range(_ATTEMPTS):
        try:
            partial = Path(tempfile.mkdtemp(prefix=f".{out.name}{PARTIAL}", dir=out.parent))
            lock = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            # Another run took it for a leftover, or ended and took along the parent it had made.
            if attempt + 1 == _ATTEMPTS:
                raise
            out.parent.mkdir(parents=True, exist_ok=True)
            continue
        # Another run may have taken it for a leftover before it was locked.
        if flock(lock) is not False and partial.exists():
            return partial, lock
        os.close(lock)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _publish(partial: Path, out: Path, *, overwrite: bool) -> None:
    """Give a complete directory its name."""
    while True:
        try:
            partial.rename(out)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # Not empty: it was so before, or a run at the same time was faster.
        check_free(out, overwrite=overwrite)
        with suppress(FileNotFoundError), locked(out, wait=_PATIENCE):
            _replace(partial, out)
            break
    _sync_one(out.parent)


def _replace(partial: Path, out: Path) -> None:
    """Put a complete directory in the place of an older one, which is then removed."""
    if not _exchange(partial, out):
        # Two steps where the system has no exchange; `_recover` finishes them after a kill.
        done = _done(out)
        partial.rename(done)
        try:
            out.rename(partial)
            done.rename(out)
        except BaseException:
            if not out.exists():
                partial.rename(out)
            shutil.rmtree(done, ignore_errors=True)
            raise
    shutil.rmtree(partial, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap the names of two directories in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux
        return False
    names = os.fsencode(first), os.fsencode(second)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _done(out: Path) -> Path:
    return out.with_name(f".{out.name}{_DONE}")


def _recover(out: Path) -> None:
    """Finish a replacement that a kill stopped, and remove what killed runs left of others."""
    done = _done(out)
    if done.is_dir() and _is_abandoned(done):
        if out.exists():
            out.rename(tempfile.mkdtemp(prefix=f".{out.name}{PARTIAL}", dir=out.parent))
        done.rename(out)
    for path in out.parent.glob(f".{glob.escape(out.name)}{PARTIAL}*"):
        if path.is_dir() and _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(directory: Path) -> bool:
    """Whether nobody holds the lock of a directory; false where that cannot be known."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return False
    try:
        return flock(descriptor) is True
    finally:
        os.close(descriptor)


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
