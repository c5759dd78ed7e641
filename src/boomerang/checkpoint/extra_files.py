"""The files beside the weights that are as true of a member as of its teacher."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError, OutputError
from ..models.quantization import QUANTIZATION_FILE, names_layers
from .header import open_plain
from .jsonfile import read_json_object
from .weights import inside

PATTERNS = (
    "tokenizer*", "special_tokens*", "added_tokens*", "*.tiktoken", "tekken.json", "vocab*",
    "merges.txt", "*.model", "*chat_template*", "*.jinja", "*processor*",
    "generation_config.json", QUANTIZATION_FILE, "LICENSE*", "NOTICE*",
)  # fmt: skip
# What could match above and is something else: weights, and the files a member has of its own.
_NOT = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".py")
# What every tool reads as a JSON object, and which of its keys hold numbers, or lists of them.
_NUMBERS = {
    "generation_config.json": re.compile(
        r"temperature|.*_p|.*_penalty|top_k|num_beams|(max|min)_.*|.*_token_id"
    ),
    "tokenizer_config.json": re.compile("model_max_length"),
}
# Where transformers keeps chat templates besides the default one.
_TEMPLATES = "additional_chat_templates"


def find_extra_files(source: Path, *, same_layers: bool = True) -> dict[str, Path]:
    """Generation config, tokenizer, chat template, processor and licence files, by their paths.

    Args:
        source: A checkpoint directory.
        same_layers: Whether they are for a model with all of the checkpoint's layers.

    Raises:
        CheckpointError: A file leads out of the checkpoint, cannot be read, is not the JSON object
            it should be, or names layers by numbers that change.
    """
    names = {path.name for pattern in PATTERNS for path in source.glob(pattern)}
    found = {
        name: inside(source, name)
        for name in sorted(names)
        if not (source / name).is_dir() and not name.endswith(_NOT)
    }
    for path in sorted((source / _TEMPLATES).glob("*.jinja")):
        if not path.is_dir():
            found[f"{_TEMPLATES}/{path.name}"] = inside(source, path.name, _TEMPLATES)
    for path in found.values():
        try:
            with open(path, "rb", opener=open_plain):
                pass
        except OSError as error:
            raise CheckpointError(f"cannot be read ({error.strerror})", where=path) from None
    for name in _NUMBERS.keys() & found.keys():
        _check_numbers(found[name], _NUMBERS[name])
    stale = None if same_layers else found.get(QUANTIZATION_FILE)
    if stale is not None and names_layers(read_json_object(stale)):
        raise CheckpointError(
            "names layers by their numbers, which change",
            where=stale,
            fix="put what it says into config.json as quantization_config, where it is renumbered",
        )
    return found


def copy_extra_files(files: Mapping[str, Path], target: Path, *, replace: bool = False) -> None:
    """Copy what `find_extra_files` found; with `replace` over files that are there.

    Raises:
        OutputError: A file cannot be written.
    """
    for name, path in files.items():
        copy = target / name
        if copy.exists() and not replace:
            continue
        try:
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        except OSError as error:
            raise OutputError(f"cannot be copied ({error.strerror or error})", where=path) from None


def _check_numbers(path: Path, keys: re.Pattern[str]) -> None:
    for key, value in read_json_object(path).items():
        values = value if isinstance(value, list) else [value]
        if keys.fullmatch(key) and not all(
            each is None or isinstance(each, int | float) for each in values
        ):
            raise CheckpointError(
                f"{key} is {value!r:.40}, which is no number", where=path, fix="mend or remove it"
            )
