"""Checkpoints whose weights are not there, for counting: from a config, and from kept layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ArchitectureError
from ..layers import LayerMap
from ..models.config import Config, member_config, num_layers, text_config
from ..models.layer_types import with_layer_types
from ..models.names import Layout
from .directory import Checkpoint, says_quantised
from .header import DTYPE_BITS, Tensor
from .jsonfile import read_json_object
from .member_files import DTYPES


def teacher_from_config(path: Path) -> Checkpoint:
    """The tensors that a model of a `config.json` would have.

    transformers makes the model on the meta device, without memory for weights.

    Raises:
        CheckpointError: The file cannot be read.
        ArchitectureError, ConfigError: The architecture is not supported, or the model quantised.
    """
    config = with_layer_types(read_json_object(path), path)
    if says_quantised(config, path.parent):
        raise ArchitectureError(
            "is of a quantised model, whose size it does not tell",
            where=path,
            fix="download the model and name its directory",
        )
    model = _on_meta(config, path)
    tensors, layout = _describe(model, config, path)
    return Checkpoint(path, config, tensors, layout)


def student_of(teacher: Checkpoint, layers: LayerMap) -> Checkpoint:
    """A student with these layers of a teacher; raises `ConfigError` where it cannot be cut."""
    layout = teacher.layout
    renamed = {name: name for name in (*layout.embedding, *layout.head)}
    for i, kept in enumerate(layers.kept):
        names = layout.layers[kept]
        renamed |= {f"{layout.stack}{kept}.{rest}": f"{layout.stack}{i}.{rest}" for rest in names}
    tensors = {
        new: replace(teacher.tensors[old], name=new, file=Path("student"))
        for old, new in renamed.items()
    }
    tied = layout.output_matrix is None and not layout.packed_output
    return Checkpoint(
        Path("student"),
        member_config(teacher.config, layers.kept, tied=tied),
        tensors,
        replace(layout, layers=tuple(layout.layers[kept] for kept in layers.kept)),
    )


def _on_meta(config: Config, path: Path) -> Any:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise ArchitectureError(f"model_type {kind!r} is not known to transformers", where=path)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                CONFIG_MAPPING[kind].from_dict(config), trust_remote_code=False
            )
    except (ValueError, TypeError, AttributeError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArchitectureError(
            f"transformers makes no causal model of it ({reason})", where=path
        ) from None


def _describe(model: Any, config: Config, path: Path) -> tuple[dict[str, Tensor], Layout]:
    from ..models.parts import find_parts

    text = text_config(config)
    keys = [part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype")]
    dtype = next((DTYPES[key] for key in keys if key in DTYPES), "F32")
    # A tied matrix is one tensor under two names; the first is the embedding's.
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    tensors: dict[str, Tensor] = {}
    position = 0
    for name in names.values():
        shape, kind = tuple(state[name].shape), dtype if state[name].is_floating_point() else "I64"
        length = state[name].numel() * DTYPE_BITS[kind] // 8
        tensors[name] = Tensor(name, path, kind, shape, position, length)
        position += length
    parts = find_parts(model)
    stack = f"{parts.layers}."

    def under(paths: tuple[str, ...]) -> tuple[str, ...]:
        prefixes = tuple(f"{path}." for path in paths)
        return tuple(sorted(name for name in tensors if name.startswith(prefixes)))

    def name_of(module: Any) -> str | None:
        return None if module is None else names.get(id(module.weight))

    table, output = name_of(model.get_input_embeddings()), name_of(model.get_output_embeddings())
    return tensors, Layout(
        stack=stack,
        layers=tuple(
            tuple(sorted(n.removeprefix(f"{stack}{i}.") for n in under((f"{stack}{i}",))))
            for i in range(num_layers(config))
        ),
        embedding=under(parts.embedding),
        head=under(parts.head),
        token_table=table,
        output_matrix=None if output == table else output,
        packed_output=False,
    )
