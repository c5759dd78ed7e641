"""Layer types that only a config class knows, written out.

Before transformers 5 a config could leave it to the class which layers have a sliding window, from
the layer's index ("every sixth is global") and defaults. The rules on JSON must see the list.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ..errors import ConfigError
from .config import PER_LAYER_LISTS, PERIODIC_RULES, Config, text_config

# In a process of its own: the import costs seconds and hundreds of megabytes, and most configs do
# without.
_SCRIPT = """
import json, sys
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1], local_files_only=True, trust_remote_code=False)
print(json.dumps(config.to_dict(), default=str))
"""


def with_layer_types(config: Config, directory: Path) -> Config:
    """A config in which every list with an entry per layer is there.

    Args:
        config: A `config.json`, as read.
        directory: The checkpoint it is from; asked only if the config leaves its layer types open.

    Returns:
        The config itself, or a copy with the lists that its class computes.

    Raises:
        ConfigError: transformers does not know the config.
    """
    if not leaves_types_open(config):
        return config
    lists = {
        key: value
        for key, value in text_config(_expanded(directory)).items()
        if key in PER_LAYER_LISTS and isinstance(value, list)
    }
    text = text_config(config)
    missing = {key: value for key, value in lists.items() if not isinstance(text.get(key), list)}
    if text is config:
        return {**config, **missing}
    return {**config, "text_config": {**text, **missing}}


def leaves_types_open(config: Config) -> bool:
    """Whether the class of a config may tell layers apart in a way its JSON does not show."""
    text = text_config(config)
    if isinstance(text.get("layer_types"), list):
        return False
    if text is not config:
        # A nested config is saved without what equals the class's defaults.
        return True
    if any(text.get(key) for key in PERIODIC_RULES):
        return True
    major = str(config.get("transformers_version")).partition(".")[0]
    if major.isdecimal() and int(major) >= 5:
        return False
    return text.get("sliding_window") is not None and text.get("use_sliding_window") is not False


def _expanded(directory: Path) -> Config:
    # -P: no module is taken from the working directory.
    command = [sys.executable, "-P", "-c", _SCRIPT, str(directory)]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()
        raise ConfigError(
            f"leaves its layer types to code and transformers cannot read it "
            f"({reason[-1] if reason else 'no reason given'})",
            where=directory / "config.json",
        )
    expanded: Config = json.loads(result.stdout.splitlines()[-1])
    return expanded
