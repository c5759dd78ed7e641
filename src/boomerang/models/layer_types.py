"""Layer types that only a config class knows, written out.

Before transformers 5 a config could leave it to its class which layers have a sliding window, from
the layer's index ("every sixth is global") and defaults. The rules on JSON must see the list. For
common classes a small table computes it; tests compare the table with the installed transformers.
Other classes are asked, in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .config import PER_LAYER_LISTS, PERIODIC_RULES, Config, num_layers, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# All layers are alike, with a window or without: the class knows no types, so none are missing.
ALL_ALIKE = frozenset({
    "doge", "ministral3", "mistral", "mixtral", "phi3", "phimoe", "qwen3_moe", "starcoder2",
})  # fmt: skip


def known_layer_types(text: Config, count: int) -> list[str] | None:
    """The layer types that the class of a config computes, or None where only the class knows."""
    rule = _RULES.get(str(text.get("model_type")))
    return None if rule is None else rule(text, count)


def _full_every(
    text: Config, count: int, *, period: int, key: str | None, others: str = SLIDING
) -> list[str] | None:
    """Full attention in every n-th layer, a window (or `others`) in the others."""
    if key is not None and key in text:
        period = text[key]
    if type(period) is not int or period < 1:
        return None
    # Another rule beside it does no harm where it says the same.
    if any(text.get(rule) not in (None, period) for rule in PERIODIC_RULES if rule != key):
        return None
    return [others if (i + 1) % period else FULL for i in range(count)]


def _from_threshold_on(text: Config, count: int) -> list[str] | None:
    """Full attention below `max_window_layers`, a window from there on."""
    window, first = text.get("sliding_window"), text.get("max_window_layers")
    if text.get("use_sliding_window") is not True or window is None or type(first) is not int:
        return None
    return [FULL if i < first else SLIDING for i in range(count)]


_RULES: dict[str, Callable[[Config, int], list[str] | None]] = {
    "cohere2": partial(_full_every, period=4, key="sliding_window_pattern"),
    "gemma2": partial(_full_every, period=2, key=None),
    "gemma3_text": partial(_full_every, period=6, key="sliding_window_pattern"),
    "qwen2": _from_threshold_on,
    "qwen3": _from_threshold_on,
    "qwen3_next": partial(_full_every, period=4, key="full_attention_interval", others=LINEAR),
}
KNOWN_TYPES = frozenset(_RULES)

# For the process that asks transformers: it takes 3 s and 250 MB on an idle machine.
_SECONDS = 120
_MEMORY_BEYOND_IMPORT = 512 * 1024 * 1024
_MAX_ANSWER = 32 * 1024 * 1024

# In a process of its own: the import costs seconds and hundreds of megabytes, most configs do
# without, and a config may ask for any amount of time and memory. Standard input is a pipe that
# nobody writes to: it ends with the parent, however that ends, and takes this process along. The
# memory limit counts from what the import has taken, which depends on the build of torch.
_SCRIPT = """
import json, os, sys, threading
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
from transformers import AutoConfig
path, seconds, memory, longest = sys.argv[1], *map(int, sys.argv[2:])
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with open("/proc/self/statm") as file:
        memory += int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
except (ImportError, OSError, ValueError):
    pass  # not Linux: the parent's patience is the limit
config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
nested = "text_config" in config.sub_configs
answer = json.dumps({"nested": nested, "config": config.to_dict()}, default=str)
if len(answer) > longest:
    sys.exit("what it stands for is too long")
print(answer)
"""


def with_layer_types(
    config: Config, directory: Path, *, live: PretrainedConfig | None = None
) -> Config:
    """The config, or a copy with the lists for its layers that its class computes.

    Args:
        config: A `config.json`, as read.
        directory: The checkpoint it is from, or the file itself, for transformers to read.
        live: What transformers has read there, if it has.

    Raises:
        ConfigError: transformers does not know the config, or reads another model in it.
    """
    text, count = text_config(config), num_layers(config)
    if not _holds_text_config(config) and not isinstance(config.get("layer_types"), list):
        types = known_layer_types(config, count)
        if types is not None:
            return {**config, "layer_types": types}
    if not leaves_types_open(config):
        return config
    if live is None:
        nested, seen = _seen(directory)
    else:
        nested, seen = "text_config" in live.sub_configs, live.get_text_config().to_dict()
    if _holds_text_config(config) and (text is config or not nested):
        raise ConfigError(
            f"its config gives the number of layers ({count}) where transformers does not look",
            where=directory,
            fix="model types with a text_config have it there, the others have no text_config",
        )
    if num_layers(seen) != count:
        raise ConfigError(
            f"its config says {count} layers and transformers reads {num_layers(seen)}",
            where=directory,
        )
    lists = {key: seen[key] for key in PER_LAYER_LISTS if isinstance(seen.get(key), list)}
    missing = {key: value for key, value in lists.items() if not isinstance(text.get(key), list)}
    if text is config:
        return {**config, **missing}
    return {**config, "text_config": {**text, **missing}}


def leaves_types_open(config: Config) -> bool:
    """Whether the class of a config may tell layers apart in a way its JSON does not show."""
    if _holds_text_config(config):
        # A nested config is saved without what equals the class's defaults, and only the class
        # knows whether it reads the nested one at all.
        return True
    if isinstance(config.get("layer_types"), list):
        return False
    if any(config.get(key) for key in PERIODIC_RULES):
        return True
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return False
    return config.get("model_type") not in ALL_ALIKE


def _holds_text_config(config: Config) -> bool:
    return isinstance(config.get("text_config"), dict)


def _seen(directory: Path) -> tuple[bool, Config]:
    """Whether the class of a config reads its `text_config`; that, or else all, with defaults."""
    numbers = (_SECONDS, _MEMORY_BEYOND_IMPORT, _MAX_ANSWER)
    # -P: no module is taken from the working directory.
    command = [sys.executable, "-P", "-c", _SCRIPT, str(directory), *map(str, numbers)]
    theirs, ours = os.pipe()
    try:
        result = subprocess.run(
            command,
            stdin=theirs,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _unread(directory, f"no answer in {_SECONDS} s") from None
    finally:
        os.close(ours)
        os.close(theirs)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()
        raise _unread(directory, reason[-1] if reason else f"exit status {result.returncode}")
    try:
        # Something else may have been printed before.
        answer = json.loads(result.stdout.splitlines()[-1])
        nested, expanded = answer["nested"], answer["config"]
        return nested, dict(expanded["text_config"] if nested else expanded)
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise _unread(directory, "no answer") from None


def _unread(directory: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"its config leaves layer types to code and transformers cannot read it ({reason:.200})",
        where=directory,
    )
