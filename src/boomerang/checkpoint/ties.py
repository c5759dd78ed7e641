"""A matrix stored for the head although the config says that the head is the embedding.

The config is followed, as the reference does: its version of transformers ties what the config ties
whatever the file holds. Later versions keep two matrices that differ apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import BoomerangWarning
from ..models.config import Config, text_config
from ..models.names import Layout
from .convert import FLOATS, pieces
from .header import Tensor


def says_tied(config: Config) -> bool:
    """Whether a config says outright that embedding and output matrix are one."""
    said = [part.get("tie_word_embeddings") for part in (config, text_config(config))]
    return True in said and False not in said


def follow_config(
    layout: Layout, config: Config, tensors: Mapping[str, Tensor], directory: Path
) -> Layout:
    """A layout without the stored output matrix, where the config ties it to the embedding.

    Warns when the matrix that is passed over differs from the embedding.

    Args:
        layout: What the tensors' names say.
        config: The checkpoint's config.
        tensors: Its tensors, by name.
        directory: Where it is.

    Raises:
        CheckpointError: A matrix cannot be read.
    """
    table, output = layout.token_table, layout.output_matrix
    if table is None or output is None or not says_tied(config):
        return layout
    # Of other shapes they cannot be one: that is found where shapes are checked.
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
