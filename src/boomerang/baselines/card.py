"""The model card of a baseline: what it is, and that it is a baseline."""

from __future__ import annotations

from ..checkpoint.card import licence, licence_text
from ..checkpoint.sources import Source
from . import laco, shortgpt
from .standalone import Standalone

_METHODS = {
    shortgpt.SERIES: "ShortGPT, [arXiv 2403.03853](https://arxiv.org/abs/2403.03853): the layers "
    "that change the hidden state least are removed",
    laco.SERIES: "LaCo, [arXiv 2402.11187](https://arxiv.org/abs/2402.11187): layers are merged "
    "into the one before them",
}


def baseline_card(model: Standalone, teacher: Source) -> str:
    """The text of a baseline's `README.md`.

    Args:
        model: The baseline.
        teacher: The teacher it is made from, whose licence it is under.
    """
    import yaml

    terms = licence(teacher.directory)
    front = {**terms, "library_name": "transformers", "pipeline_tag": "text-generation"}
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {teacher.name} pruned to {model.num_layers} layers

A baseline, made without training from `{teacher.name}` to be compared with:
{_METHODS[model.series]}. `baseline.json` says which layers it is made of.

It is a plain checkpoint of the teacher's architecture: whatever reads the teacher reads it.

## Licence

{licence_text(terms)}
"""
