"""What a family is compared with: the list of all baselines.

A baseline is one file in this folder, `NAME.py` with a function `run`, and one entry of `_LIST`.
The command line, studies and reports read the list; the file is imported when it is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ..errors import LayerMapError

if TYPE_CHECKING:
    from pathlib import Path

    from ..evaluate.results import Row
    from .bench import Bench

Kind = Literal["patched", "pruned", "distilled", "given"]
"""What is measured: members of another family, models that a calibration text chooses, students
distilled one by one, or models that the user names. The kind decides the options of `run`."""


@dataclass(frozen=True)
class Baseline:
    """A baseline.

    Args:
        name: The name of its file, command and series, and of its key in a study.
        label: Its name in a report.
        kind: What is measured.
        help: What it is, in a sentence.
    """

    name: str
    label: str
    kind: Kind
    help: str

    def run(self, bench: Bench, results: Path, **options: Any) -> list[Row]:
        """Measure it into a directory of results; options and errors as in its file."""
        rows: list[Row] = import_module(f".{self.name}", __name__).run(bench, results, **options)
        return rows


def check_size(size: int, num_layers: int) -> None:
    """Refuse a number of layers that makes no smaller model; raises `LayerMapError`."""
    if not 1 <= size < num_layers:
        raise LayerMapError(
            f"{size} of {num_layers} layers cannot be kept", fix=f"give 1 to {num_layers - 1}"
        )


_LIST: tuple[tuple[str, str, Kind, str], ...] = (
    ("naive", "naive pruning", "patched",
     "The same layers without any distillation, patched in the same order."),
    ("random", "random initialisation", "patched",
     "A student distilled from random weights with the same recipe, patched in the same order."),
    ("shortgpt", "ShortGPT", "pruned",
     "The layers that change the state least removed, without training (arXiv 2403.03853)."),
    ("laco", "LaCo", "pruned",
     "Layers merged from the top down, at the best settings of several (arXiv 2402.11187)."),
    ("distilled", "distilled one by one", "distilled",
     "Students of some sizes, each distilled by itself with the family's recipe and tokens."),
    ("pretrained", "pretrained", "given",
     "Models of your own; with another tokenizer, of text only bits per byte can be compared."),
)  # fmt: skip

BASELINES = {each[0]: Baseline(*each) for each in _LIST}
