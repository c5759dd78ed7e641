"""What a demo run is made with: the small one and the real one differ here and nowhere else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint.lock import LOCK
from ..checkpoint.output import write_text
from ..distill.recipe import Recipe
from ..errors import DataError, OutputError
from ..layers import FIRST_TO_LAST, LAST_TO_FIRST
from ..text.documents import join_documents, read_documents
from . import assets

FILE_NAME = "demo.json"
# What an interrupted run may leave before it has recorded its settings.
TEACHER = "teacher"
BOOKS = "books"


@dataclass(frozen=True)
class Settings:
    """What decides the outcome of a demo run.

    Args:
        teacher: Content hash of the teacher.
        order: The order the sizes are patched in.
        kept: The teacher layers that the student keeps.
        text: `books`, or a hash of the text given.
        steps: Optimiser steps of distillation; the controls get as many.
        batch_size: Rows in a step.
        sequence_length: Tokens in a row.
        learning_rate: The largest; it falls along a cosine.
        bf16: Whether to train under bf16 autocast.
        checkpoints: Whether an interrupted distillation goes on in its middle.
        heldout_characters: How much of each of the two held-out books is measured on. At the end of
            text that is given as much as of both together is held out.
        seed: Of everything random.
    """

    teacher: str
    order: str
    kept: tuple[int, ...]
    text: str = BOOKS
    steps: int = 240
    batch_size: int = 16
    sequence_length: int = 256
    learning_rate: float = 2e-3
    bf16: bool = False
    checkpoints: bool = False
    heldout_characters: int = 60_000
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens the student is distilled on."""
        return self.steps * self.batch_size * self.sequence_length

    @property
    def text_name(self) -> str:
        """The text in a word, for people."""
        return BOOKS if self.text == BOOKS else "your text"

    def with_text(self, name: str, tokens: int | None) -> Settings:
        """The same with another text and, if given, as many steps as these tokens make."""
        rows = self.batch_size * self.sequence_length
        steps = self.steps if tokens is None else max(1, round(tokens / rows))
        return replace(self, text=name, steps=steps)


def real_settings() -> dict[str, Any]:
    """The fields of `Settings` for SmolLM2-135M: at most half an hour on two cores."""
    return {
        "order": FIRST_TO_LAST,
        "steps": 300,
        "batch_size": 4,
        "learning_rate": 8e-4,
        "bf16": _multiplies_bf16(),
        "checkpoints": True,
        "heldout_characters": 12_000,
    }


def _multiplies_bf16() -> bool:
    """Whether products in bf16 are faster here than those in float32."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        # Processors with amx_bf16 have it too.
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def recipe(plan: Settings, teacher: Path, student: Path, out: Path, text: Path) -> Recipe:
    """The demo's distillation recipe; docs/experiments.md says how it was chosen."""
    return Recipe.parse(
        {
            "teacher": str(teacher),
            "student": str(student),
            "out": str(out),
            "data": {
                "files": [str(text)],
                "sequence_length": plan.sequence_length,
            },
            "order": plan.order,
            # The preset says the rest. More mirrored batches than its own: the student gives a
            # little for a curve without a dip, which is what the demo is there to show.
            **({"mirror": 0.75} if plan.order == LAST_TO_FIRST else {}),
            "seed": plan.seed,
            "training": {
                "max_steps": plan.steps,
                "per_device_train_batch_size": plan.batch_size,
                "learning_rate": plan.learning_rate,
                **({"bf16": True} if plan.bf16 else {}),
                # A short run is sooner repeated than resumed from a checkpoint in its middle.
                **({} if plan.checkpoints else {"save_strategy": "no"}),
            },
        }
    )


@dataclass(frozen=True)
class Texts:
    """What to distil on and what to measure on, one file each.

    Args:
        name: What stands in `Settings.text`.
        training: The text to distil on.
        heldout: The whole text that can be measured on, by document.
    """

    name: str
    training: str
    heldout: tuple[str, ...]

    @classmethod
    def of(cls, files: Iterable[str | Path], heldout_characters: int) -> Texts:
        """The embedded books, or files of one's own, whose end is held out.

        Raises:
            DataError: A file cannot be read, or there is too little text.
        """
        files = list(files)
        books = assets.heldout_documents()
        if not files:
            return cls(BOOKS, join_documents(assets.training_documents()), tuple(books))
        text = join_documents(read_documents(files))
        held_out = len(books) * heldout_characters
        if len(text) < 2 * held_out:
            raise DataError(
                f"has {len(text):,} characters, of which {held_out:,} are held out to measure on",
                where="--data",
                fix="give more text",
            )
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        half = len(text) - heldout_characters
        return cls(name, text[:-held_out], (text[-held_out:half], text[half:]))

    def write(self, directory: Path, heldout_characters: int) -> tuple[Path, Path]:
        """Both as files, as any user of the tool has them."""
        directory.mkdir(exist_ok=True)
        stem = "held-out-books" if self.name == BOOKS else "held-out"
        training, heldout = directory / "train.txt", directory / f"{stem}.txt"
        write_text(training, self.training)
        write_text(heldout, join_documents(text[:heldout_characters] for text in self.heldout))
        return training, heldout


def check_output(out: Path) -> None:
    """Refuse a directory that holds something other than a demo run.

    Raises:
        OutputError: It does, or it cannot be read.
    """
    try:
        if not out.exists() or (out / FILE_NAME).exists():
            return
        foreign = not out.is_dir() or any(
            path.name not in (TEACHER, LOCK) for path in out.iterdir()
        )
    except OSError as error:
        raise OutputError(f"cannot be read ({error.strerror})", where=out) from None
    if foreign:
        raise OutputError(
            "is not empty and holds no demo run", where=out, fix="name another directory"
        )


def claim(out: Path, plan: Settings) -> None:
    """Record the settings in a new output, or compare them with those of the run to continue.

    Raises:
        OutputError: The run there has other settings, or the output cannot be written.
    """
    record = out / FILE_NAME
    wanted = json.loads(json.dumps(asdict(plan)))
    if record.exists():
        found = json.loads(record.read_text())
        changed = [key for key in wanted if found.get(key) != wanted[key]]
        if changed:
            raise OutputError(
                f"holds a demo run with another {', '.join(changed)}",
                where=out,
                fix="name another directory",
            )
        return
    write_text(record, json.dumps(wanted, indent=2) + "\n")
