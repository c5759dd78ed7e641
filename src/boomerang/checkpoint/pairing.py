"""Which teacher layers a student keeps, and in which order to patch, as far as the files tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError, LayerMapError
from ..layers import LayerMap, Order
from ..models.config import Config, num_layers
from ..models.default_order import default_order_for, order_in_words
from .directory import Checkpoint, read_config
from .jsonfile import read_json_object
from .known_pairs import known_pair
from .proposal import propose
from .student_config import FILE_NAME, read_student_config
from .tokenizers import check_tokenizers
from .weights import has_all_weights


@dataclass(frozen=True)
class Pairing:
    """What a teacher and a student are to each other.

    Args:
        layers: The teacher layers the student was cut from.
        order: The order to patch in when none is given.
        order_source: Whether it is recorded with the student, or the paper's for such a teacher.
        model_type: The teacher's.
    """

    layers: LayerMap
    order: Order
    order_source: Literal["recorded", "paper"]
    model_type: str

    @classmethod
    def of(
        cls, layers: LayerMap, config: Config, recorded: tuple[int, ...] | None = None
    ) -> Pairing:
        """The pairing of a teacher with a config and a student with kept layers.

        Args:
            layers: The teacher layers the student was cut from.
            config: The teacher's config.
            recorded: The order recorded with the student, if any.
        """
        model_type = str(config.get("model_type"))
        if recorded is None:
            return cls(layers, default_order_for(config), "paper", model_type)
        return cls(layers, recorded, "recorded", model_type)

    def __str__(self) -> str:
        """The order, and where it comes from, in one line."""
        return order_in_words(self.order, self.order_source, self.model_type)


def pair_up(teacher: Path, student: Path, keep: Iterable[int] | None = None) -> Pairing:
    """Find out how a student goes with a teacher.

    The kept layers are those of the student's `student_config.json`; without one, `keep`; without
    either, those of a known pair. Where all three are missing, the tensors of the two may tell
    them, and the error proposes what they tell: nothing is guessed.

    Args:
        teacher: The teacher's directory, or a `config.json` alone.
        student: The student's directory.
        keep: The teacher layers to take as kept.

    Raises:
        CheckpointError: The kept layers are not known, or a file cannot be read.
        LayerMapError: `keep` is no plan for this teacher, or contradicts the student's own.
        ArchitectureError: The two have different tokenizers.
        ConfigError: The teacher's config has no number of layers.
    """
    config = read_json_object(teacher) if teacher.is_file() else read_config(teacher)
    layers, recorded = _layers(teacher, student, config, keep)
    check_tokenizers(teacher if teacher.is_dir() else teacher.parent, student)
    return Pairing.of(layers, config, recorded)


def _layers(
    teacher: Path, student: Path, config: Config, keep: Iterable[int] | None
) -> tuple[LayerMap, tuple[int, ...] | None]:
    keep = None if keep is None else tuple(keep)
    if (student / FILE_NAME).exists():
        layers, order = read_student_config(student)
        if keep not in (None, layers.kept):
            raise LayerMapError(
                f"says that the student keeps layers {_listed(layers.kept)}, not {_listed(keep)}",
                where=student / FILE_NAME,
                fix="leave --keep (keep=) out",
            )
        return layers, order
    if keep is None:
        known = known_pair(teacher, student)
        if known is None:
            raise _unknown(teacher, student)
        keep = known.kept
    return LayerMap(keep, num_layers(config)), None


def _unknown(teacher: Path, student: Path) -> CheckpointError:
    """What is missing, with what the tensors of the two say about it."""
    what, kept = f"has no {FILE_NAME}, and it is no known pair's student", None
    directories = (teacher, student)
    if all(path.is_dir() and has_all_weights(path) for path in directories):
        found = propose(*(Checkpoint.open(path) for path in directories))
        if found is not None:
            what = f"{what}; its tensors {found}"
            kept = _listed(found.kept) if found.clear else None
    fix = "say which teacher layers it keeps with --keep (keep=), such as --keep 0,2,4"
    if kept is not None:
        fix = f"if that is right, give --keep {kept} (keep=[{kept}])"
    return CheckpointError(what, where=student, fix=fix)


def _listed(layers: Iterable[int] | None) -> str:
    return ",".join(map(str, layers or ()))
