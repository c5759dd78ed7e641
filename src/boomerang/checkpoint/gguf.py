"""A GGUF file as a plain transformers checkpoint directory."""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .output import new_directory, write_json

# What transformers writes about where a model came from. It changes with its version.
_PROVENANCE = ("quantization_config", "transformers_version", "_name_or_path")
_LOCAL = ("is_local", "local_files_only")


def import_gguf(file: str | Path, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a GGUF file as a checkpoint: float32 safetensors, config, tokenizer, chat template.

    transformers reads the file and dequantises it. The same file gives the same bytes of weights
    and config, so that `hashing.content_hash` of the result stands for the file.

    Args:
        file: The GGUF file of a causal language model.
        out: The new directory; it appears under its name when it is complete.
        overwrite: Replace a directory that is not empty.

    Returns:
        `out`.

    Raises:
        CheckpointError: The file cannot be read, transformers does not know its architecture, or
            the package `gguf` is not installed.
        OutputError: `out` is not empty or cannot be written.
    """
    file, out = Path(file), Path(out)
    if not file.is_file():
        raise CheckpointError("is not a file", where=file, fix="name a GGUF file")
    if find_spec("gguf") is None:
        raise CheckpointError(
            "needs the package gguf to be read", where=file, fix="pip install gguf"
        )
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with new_directory(out, overwrite=overwrite) as partial:
        try:
            source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
            # transformers has no switch for the progress bar of its reader.
            with redirect_stderr(StringIO()):
                model = AutoModelForCausalLM.from_pretrained(
                    file.parent, dtype=torch.float32, **source
                )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        except Exception as error:  # whatever a broken file makes of transformers' and gguf's code
            reason = (str(error).strip().splitlines() or [""])[0]
            raise CheckpointError(
                f"cannot be read as GGUF ({type(error).__name__}: {reason:.200})", where=file
            ) from error
        weights = {
            name: tensor.contiguous()
            for name, tensor in model.state_dict().items()
            if name not in model.all_tied_weights_keys
        }
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        model.config.architectures = [type(model).__name__]
        config = _without(json.loads(model.config.to_json_string()), _PROVENANCE)
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        model.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        settings = partial / "tokenizer_config.json"
        write_json(settings, _without(json.loads(settings.read_text(encoding="utf-8")), _LOCAL))
    return out


def _without(content: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}
