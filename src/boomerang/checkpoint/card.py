"""The model card of a member: what it is, what it is made from, and how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..units import show_bytes, show_count
from .header import open_plain
from .identity import Identity
from .member_files import MemberFiles
from .weights import inside

# Front matter is short; whatever follows is of no interest here.
_LONGEST = 64 * 1024
_TEXT = "tag:yaml.org,2002:str"
_LICENCE_KEYS = ("license", "license_name", "license_link")

_CITATION = """@inproceedings{kangaslahti2026boomerang,
  title     = {Boomerang Distillation Enables Zero-Shot Model Size Interpolation},
  author    = {Sara Kangaslahti and Nihal V. Nayak and Jonathan Geuter and Marco Fumero and
               Francesco Locatello and David Alvarez-Melis},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2026},
  note      = {arXiv:2510.05064}
}"""


def licence(directory: Path) -> dict[str, str]:
    """Returns the licence keys of a checkpoint's own card; empty without a readable card.

    Raises:
        CheckpointError: The licence is not Unicode text.
    """
    try:
        path = inside(directory, "README.md")
        with open(path, "rb", opener=open_plain) as file:
            text = file.read(_LONGEST).decode(errors="replace")
    except (OSError, CheckpointError):
        return {}
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return {}
    # Imported here, because most local checkpoints have no card.
    import yaml

    try:
        # Not loaded, because merges in a hostile card can expand without limit.
        front = yaml.compose("\n".join(lines[1 : lines.index("---", 1)]), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return {}
    if not isinstance(front, yaml.MappingNode):
        return {}
    found = {}
    for key, value in front.value:
        is_text = isinstance(value, yaml.ScalarNode) and value.tag == _TEXT
        if is_text and key.value in _LICENCE_KEYS:
            found[key.value] = value.value
    try:
        "".join(found.values()).encode()
    except UnicodeEncodeError:
        raise CheckpointError("names a licence that is no Unicode text", where=path) from None
    return {key: found[key] for key in _LICENCE_KEYS if key in found}


def model_card(
    files: MemberFiles, teacher: Identity, student: Identity, licence: dict[str, str]
) -> str:
    """The text of a member's `README.md`; `licence` is that of the teacher."""
    member, layers = files.member, files.member.layers
    patched = ", ".join(map(str, member.patched)) or "none"
    name = f"{Path(teacher.id).name} with {member.num_layers} of {layers.num_layers} layers"
    tied = "one matrix" if files.tied else "two matrices"
    parameters = show_count(files.parameters)
    return f"""---
{_front_matter(licence, teacher, student)}---

# {name}

A language model of {parameters} parameters ({files.dtype}), made without training from a
large teacher and a small student that was distilled from it
([boomerang distillation, arXiv 2510.05064](https://arxiv.org/abs/2510.05064)): blocks of the
teacher's layers stand where the student had one layer for each.

| | |
|---|---|
| Teacher | {_spell(teacher)}, {layers.num_layers} layers |
| Student | {_spell(student)}, {layers.num_student_layers} layers |
| Teacher layers the student keeps | {", ".join(map(str, layers.kept))} |
| Student layers replaced by their blocks | {patched} |
| Layers | {member.num_layers} |
| Size of the weights | {show_bytes(files.length)} |
| Embedding and output matrix | {tied} |

`boomerang.json` holds all that is needed to build the same files again.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/directory", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```

It is a plain checkpoint of the teacher's architecture: whatever reads the teacher reads it.

## Licence

{licence_text(licence)}

## Citation

```bibtex
{_CITATION}
```
"""


def _front_matter(licence: dict[str, str], teacher: Identity, student: Identity) -> str:
    import yaml

    # A hub page can only point at models on the hub.
    bases = [who.id for who in (teacher, student) if who.revision is not None]
    front: dict[str, Any] = {
        **licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["boomerang-distillation"],
    }
    if bases:
        front["base_model"] = bases
        front["base_model_relation"] = "merge"
    text: str = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return text


def _spell(who: Identity) -> str:
    # Cards are public, so a local directory is given by its name alone.
    if Path(who.id).is_absolute():
        return f"`{Path(who.id).name}`, a local checkpoint"
    return f"`{who.id}`" if who.revision is None else f"`{who.id}` at `{who.revision}`"


def licence_text(licence: dict[str, str]) -> str:
    """Returns the licence section of a model made from a teacher with this licence."""
    if not licence:
        return (
            "The teacher's card names no licence; the teacher's terms apply to this model as well."
        )
    return f"As the teacher: {', '.join(licence.values())}."
