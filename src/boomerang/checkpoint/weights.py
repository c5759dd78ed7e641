"""The tensors of a checkpoint directory: one safetensors file or several with an index."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ..errors import CheckpointError
from .header import Tensor, read_header, short
from .jsonfile import read_json_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_PICKLED = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt")


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint directory, by name, from the headers of its files.

    Raises:
        CheckpointError: There are no safetensors weights, a header or the index is broken, or the
            index names files or tensors that are missing or lie outside the directory.
    """
    if (directory / SINGLE).exists():
        return read_header(inside(directory, SINGLE))
    if (directory / INDEX).exists():
        return _read_indexed(directory)
    raise _no_weights(directory)


def has_weights(directory: Path) -> bool:
    """Whether a directory has weights that can be read."""
    return (directory / SINGLE).exists() or (directory / INDEX).exists()


def has_all_weights(directory: Path) -> bool:
    """Whether every weight file is there, as after a whole download from the hub.

    Raises:
        CheckpointError: The index is broken.
    """
    if (directory / SINGLE).exists() or not (directory / INDEX).exists():
        return (directory / SINGLE).exists()
    weight_map = read_json_object(inside(directory, INDEX)).get("weight_map")
    files = map(str, weight_map.values()) if isinstance(weight_map, dict) else ()
    return all(os.path.exists(directory / file) for file in set(files))


def inside(directory: Path, name: str, folder: str = "") -> Path:
    """A file in a checkpoint directory, or in a folder of it, that does not lead out of it.

    In the hub's cache it may be a link into the blobs of the same entry.

    Raises:
        CheckpointError: The name or a link leads out of the directory, or there is no such file.
    """
    path = directory / folder / name
    if Path(name).is_absolute() or Path(name).name != name:
        raise CheckpointError(
            f"names the file {short(name)!r}, which is not in it", where=directory
        )
    try:
        real = path.resolve(strict=True)
        home = directory.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise CheckpointError("is missing", where=directory / folder / short(name)) from None
    allowed = [home / folder]
    if home.parent.name == "snapshots":
        # Not resolved: a folder of blobs that is itself a link leads anywhere.
        allowed.append(home.parent.parent / "blobs")
    if real.parent not in allowed:
        raise CheckpointError(
            f"is a link out of the checkpoint, to {real}",
            where=path,
            fix="copy the file itself there",
        )
    return path


def _read_indexed(directory: Path) -> dict[str, Tensor]:
    index = inside(directory, INDEX)
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", where=index)
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"gives no safetensors file for {short(name)}, but {short(repr(file))}",
                where=index,
            )
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        for name, tensor in read_header(inside(directory, file)).items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor {short(name)} is in two files, {short(tensors[name].file.name)} and "
                    f"{short(file)}",
                    where=directory,
                )
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise CheckpointError(
                f"puts tensor {short(name)} into {short(file)}, which lacks it", where=index
            )
    return tensors


def _no_weights(directory: Path) -> CheckpointError:
    if any(path for pattern in _PICKLED for path in directory.glob(pattern)):
        return CheckpointError(
            "has pickled weights only, which are not read",
            where=directory,
            fix=f"convert them: {conversion_command(directory)}",
        )
    return CheckpointError(f"has no weights ({SINGLE})", where=directory)


def conversion_command(directory: Path) -> str:
    """The shell command that converts pickled weights to safetensors in another directory."""
    source, out = repr(str(directory)), repr(f"{directory}-safetensors")
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained({source}, dtype='auto').save_pretrained({out}); "
        f"T.from_pretrained({source}).save_pretrained({out})"
    )
    return f"python -c {shlex.quote(code)}"
