"""Text as rows of tokens to train on.

`prepare_rows` makes them once, one process for all: documents from files or the hub (`sources`)
become tokens (`tokenise`, `chat`) and rows of one length (`pack`), of several sources in given
proportions (`mix`), in an Arrow file (`store`). `load_rows` maps them into memory. The library
`datasets` is needed for these two alone; `Rows` over arrays do without.
"""

from .prepare import load_phases, load_rows, prepare_rows, rows_hash
from .rows import Rows, collate, count_tokens

__all__ = [
    "Rows",
    "collate",
    "count_tokens",
    "load_phases",
    "load_rows",
    "prepare_rows",
    "rows_hash",
]
