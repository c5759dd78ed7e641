"""New files and directories that appear under their final name only when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError

# Leftovers of a killed run are recognised by this and the name of the output they were for.
_MARK = ".boomerang-partial-"


@contextmanager
def new_directory(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill that becomes `out` at the end of the block, and vanishes on an error.

    Args:
        out: The final directory. It may exist when it is empty, or with `overwrite`.
        overwrite: Replace a directory that is not empty.

    Yields:
        A temporary directory beside `out`, on the same file system.

    Raises:
        OutputError: `out` is a file, is not empty without `overwrite`, or cannot be written to.
    """
    check_free(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}{_MARK}{os.getpid()}-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror})", where=out) from None
    try:
        yield partial
        # mkdtemp makes private directories; the result gets the permissions of any new one.
        partial.chmod(0o777 & ~_umask())
        check_free(out, overwrite=overwrite)
        _rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(out: Path, *, overwrite: bool = False) -> None:
    """Refuse an output that would have to be overwritten.

    Raises:
        OutputError: `out` is a file, or a directory that is not empty and `overwrite` is false.
    """
    if out.exists() and not out.is_dir():
        raise OutputError("is a file", where=out, fix="name a directory")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError("is not empty", where=out, fix="name another directory or use --overwrite")


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}{_MARK}{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def _rename(partial: Path, out: Path) -> None:
    if out.is_dir():
        # A rename replaces an empty directory only, so a full one steps aside first.
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}{_MARK}{os.getpid()}-", dir=out.parent))
        out.rename(aside / out.name)
        partial.rename(out)
        shutil.rmtree(aside)
    else:
        partial.rename(out)


def _remove_leftovers(out: Path) -> None:
    for path in out.parent.glob(f".{out.name}{_MARK}*"):
        owner = path.name.partition(_MARK)[2].partition("-")[0]
        if not _is_running(owner):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _umask() -> int:
    # There is no way to read it other than to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
