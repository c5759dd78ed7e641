"""A checkpoint directory, as its config and headers describe it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BoomerangWarning, CheckpointError
from ..models.config import FURTHER_TOKEN_LAYERS, Config, num_layers, text_config
from ..models.layer_types import with_layer_types
from ..models.names import Layout, read_layout
from ..models.quantization import QUANTIZATION_FILE, QUANTIZATION_KEYS
from .convert import FLOATS, pieces
from .header import Tensor
from .jsonfile import read_json_object
from .weights import inside, read_weights

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, without its weights.

    Args:
        directory: Where it is.
        config: Its config.
        tensors: Its tensors, by name.
        layout: Which of them are embedding, layers and head.
    """

    directory: Path
    config: Config
    tensors: Mapping[str, Tensor]
    layout: Layout

    @classmethod
    def open(cls, directory: Path, *, expand: bool = False) -> Checkpoint:
        """Read the config and the headers of a directory.

        With `expand`, layer types that only the config's class knows are written out: members'
        configs are made from the teacher's.

        Raises:
            CheckpointError: A file is missing or broken.
            ConfigError, ArchitectureError: The architecture is not supported.
        """
        config = read_config(directory)
        tensors = read_weights(directory)
        layout = _follow_config(layout_of(config, tensors, directory), config, tensors, directory)
        # Last: a config may claim more layers than there are.
        if expand:
            config = with_layer_types(config, directory)
        return cls(directory, config, tensors, layout)

    @property
    def dtype(self) -> str | None:
        """The dtype of most of its floating-point numbers, as safetensors spells it."""
        count: dict[str, int] = {}
        for tensor in self.tensors.values():
            if tensor.dtype in FLOATS:
                count[tensor.dtype] = count.get(tensor.dtype, 0) + tensor.elements
        return max(sorted(count), key=lambda dtype: count[dtype], default=None)

    @property
    def is_quantised(self) -> bool:
        """Whether the config says that the weights are packed in a format of their own."""
        return says_quantised(self.config, self.directory)

    @property
    def token_table(self) -> Tensor | None:
        """The embedding matrix."""
        name = self.layout.token_table
        return None if name is None else self.tensors[name]

    @property
    def output_matrix(self) -> Tensor | None:
        """The matrix that gives the logits; the embedding's where the file has no other."""
        if self.layout.packed_output:
            return None
        name = self.layout.output_matrix
        return self.token_table if name is None else self.tensors[name]

    def layer(self, index: int) -> dict[str, Tensor]:
        """The tensors of a layer, by their names within it."""
        prefix = f"{self.layout.stack}{index}."
        return {rest: self.tensors[prefix + rest] for rest in self.layout.layers[index]}


def read_config(directory: Path) -> Config:
    """The content of a checkpoint's `config.json`.

    Raises:
        CheckpointError: It is missing or no JSON object, or an adapter lies beside it.
    """
    # With peft installed, transformers would load the adapter into the model silently.
    if (directory / _ADAPTER).exists():
        raise CheckpointError(
            f"has an adapter ({_ADAPTER}) beside the model",
            where=directory,
            fix="merge the two (peft's merge_and_unload) and save the result, or remove the file",
        )
    if not (directory / "config.json").exists():
        raise CheckpointError("has no config.json", where=directory)
    return read_json_object(inside(directory, "config.json"))


def says_quantised(config: Config, directory: Path) -> bool:
    """Whether a config, or ModelOpt's file beside it, says that the weights are quantised."""
    parts = (config, text_config(config))
    said = any(part.get(key) for part in parts for key in QUANTIZATION_KEYS)
    return said or (directory / QUANTIZATION_FILE).exists()


def layout_of(config: Config, tensors: Mapping[str, Tensor], where: object) -> Layout:
    """Which tensors are embedding, layers and head.

    Raises:
        ConfigError, ArchitectureError: The architecture is not supported.
    """
    text = text_config(config)
    extra = next((text[key] for key in FURTHER_TOKEN_LAYERS if isinstance(text.get(key), int)), 0)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return read_layout(shapes, num_layers(config), extra_layers=max(0, extra), where=where)


def says_tied(config: Config) -> bool:
    """Whether a config says outright that embedding and output matrix are one."""
    said = [part.get("tie_word_embeddings") for part in (config, text_config(config))]
    return True in said and False not in said


def _follow_config(
    layout: Layout, config: Config, tensors: Mapping[str, Tensor], directory: Path
) -> Layout:
    """The layout without a stored output matrix that the config ties to the embedding.

    As in the reference, whose transformers ties the two whatever the file holds; later versions
    keep unlike matrices apart.
    """
    table, output = layout.token_table, layout.output_matrix
    if table is None or output is None or not says_tied(config):
        return layout
    # Matrices of two shapes cannot be one: the check of shapes finds that.
    if tensors[table].shape != tensors[output].shape:
        return layout
    if not _equal(tensors[table], tensors[output]):
        warn_of_unused_head(directory)
    head = tuple(name for name in layout.head if name != output)
    return replace(layout, output_matrix=None, head=head)


def warn_of_unused_head(directory: Path) -> None:
    """Say that a stored output matrix is not used."""
    warnings.warn(
        f"{directory}: has an output matrix that differs from the embedding, while its config ties "
        "the two; the config is followed and the matrix left out",
        BoomerangWarning,
        stacklevel=2,
    )


def _equal(table: Tensor, output: Tensor) -> bool:
    if table.dtype != output.dtype and not {table.dtype, output.dtype} <= FLOATS:
        return False
    both = zip(pieces(table, table.dtype), pieces(output, table.dtype), strict=True)
    return all(a == b for a, b in both)
