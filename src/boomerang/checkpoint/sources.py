"""A teacher, a student, and what they agree on: found once, and read as far as it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import CheckpointError, LayerMapError
from ..hashing import content_hash
from ..layers import LayerMap, Member, Order, order_name
from ..models.config import Config, num_layers, paper_order
from .compatibility import check_configs
from .directory import Checkpoint, read_config
from .identity import Identity, identify
from .jsonfile import read_json_object
from .kept_layers_proposal import propose
from .known_pairs import known_pair
from .member_files import FamilyFiles
from .resolve import Reference, resolve
from .student_config import FILE_NAME, read_student_config
from .tokenizers import check_tokenizers
from .weights import has_all_weights, has_weights, inside
from .without_weights import student_of, teacher_from_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Source:
    """A checkpoint that the user named; `open` finds it, and the rest is read on demand.

    Args:
        reference: What the user named.
        directory: Where it is.
        trust_remote_code: Whether to run Python code that comes with the checkpoint.
        needs_weights: Whether missing weights are an error; otherwise the config is enough.
        config_file: The file that the user named instead of a directory.
    """

    reference: str
    directory: Path
    trust_remote_code: bool = False
    needs_weights: bool = True
    config_file: Path | None = None

    @classmethod
    def open(
        cls,
        reference: str | Path | Source,
        *,
        trust_remote_code: bool = False,
        weights: bool = True,
    ) -> Source:
        """Find a checkpoint, and download it if it is on the hub.

        Args:
            reference: A directory, or a hub id with or without `@revision`. Without weights also
                a `config.json`. A source is returned as it is.
            trust_remote_code: Download and run Python code that comes with it.
            weights: False downloads the configs alone.

        Raises:
            CheckpointError: There is no such checkpoint, or it cannot be read.
        """
        if isinstance(reference, Source):
            return reference
        if not weights and os.path.isfile(reference):
            file = Path(reference)
            return cls(str(reference), file.parent, trust_remote_code, weights, file)
        directory = resolve(reference, trust_remote_code=trust_remote_code, weights=weights)
        return cls(str(reference), directory, trust_remote_code, weights)

    @property
    def name(self) -> str:
        """The checkpoint's name, without owner, path or revision."""
        return Path(Reference.parse(self.reference).name).resolve().name

    @cached_property
    def config(self) -> Config:
        """The content of its `config.json`; raises `CheckpointError`."""
        file = self.config_file
        return read_config(self.directory) if file is None else read_json_object(file)

    @cached_property
    def content_hash(self) -> str:
        """The hash of its config and of every byte of its weights; raises `CheckpointError`."""
        return content_hash(self.directory)

    @cached_property
    def has_weights(self) -> bool:
        """Whether there are weights to read."""
        if self.needs_weights or self.config_file is not None:
            return self.needs_weights
        # A directory that lacks a file is broken; a partial download counts as none.
        is_local = Path(Reference.parse(self.reference).name).is_dir()
        return (has_weights if is_local else has_all_weights)(self.directory)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Its tensors, from the headers or, without weights, from the config; and layer types.

        Raises:
            CheckpointError, ArchitectureError, ConfigError: It is broken or not supported.
        """
        if self.has_weights:
            return Checkpoint.open(self.directory, expand=True)
        return teacher_from_config(self.config_file or inside(self.directory, "config.json"))

    def model(self, **options: Any) -> PreTrainedModel:
        """The live model; `options` and errors as in `load_model`."""
        from .loading import load_model

        options["trust_remote_code"] = self.trust_remote_code
        return load_model(self.directory, **options)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that lies beside it; raises `CheckpointError`."""
        from .loading import load_tokenizer

        return load_tokenizer(self.directory, trust_remote_code=self.trust_remote_code)


@dataclass(frozen=True)
class Sources:
    """A teacher and its student.

    Args:
        teacher: The teacher.
        student: The student; None where it is still to be cut from the teacher.
        layers: The teacher layers that the student keeps.
        order: The order to patch in when the user gives none.
        order_source: Whether the student records the order, or it is the paper's choice.
        keep_given: Whether the user named the kept layers.
    """

    teacher: Source
    student: Source | None
    layers: LayerMap
    order: Order
    order_source: Literal["recorded", "paper"] = "paper"
    keep_given: bool = False

    @classmethod
    def open(
        cls,
        teacher: str | Path,
        student: str | Path,
        *,
        keep: Iterable[int] | None = None,
        trust_remote_code: bool = False,
        weights: bool = True,
    ) -> Sources:
        """Find a teacher and a student, and how they go together.

        Args:
            teacher: As in `Source.open`.
            student: As in `Source.open`.
            keep: As in `pair`.
            trust_remote_code: As in `Source.open`.
            weights: False needs no weights: `files` counts without them.

        Raises:
            BoomerangError: As `Source.open` and `pair`.
        """
        both = (
            Source.open(each, trust_remote_code=trust_remote_code, weights=weights)
            for each in (teacher, student)
        )
        return cls.pair(*both, keep=keep)

    @classmethod
    def pair(
        cls, teacher: Source, student: Source, *, keep: Iterable[int] | None = None
    ) -> Sources:
        """Find out how a student goes with a teacher.

        The kept layers are those of the student's `student_config.json`; without one, `keep`;
        without either, those of a known pair. Otherwise the error proposes the layers that the
        student's tensors are nearest to: nothing is guessed.

        Args:
            teacher: The teacher.
            student: The student.
            keep: The teacher layers that the student keeps.

        Raises:
            CheckpointError: The kept layers are not known, or a file cannot be read.
            LayerMapError: `keep` contradicts the student's own, or the models do not have the
                numbers of layers that the kept layers make.
            ArchitectureError: The tokenizers differ.
            ConfigError: A config has no clear number of layers.
        """
        keep = None if keep is None else tuple(keep)
        layers, recorded = _kept_layers(teacher, student, keep)
        _check_depth("teacher", num_layers(teacher.config), layers.num_layers, teacher)
        if (student.directory / "config.json").exists():
            depth = num_layers(student.config)
            _check_depth("student", depth, layers.num_student_layers, student)
        check_tokenizers(teacher.directory, student.directory)
        if recorded is not None:
            return cls(teacher, student, layers, recorded, "recorded", keep is not None)
        order = paper_order(teacher.config)
        return cls(teacher, student, layers, order, keep_given=keep is not None)

    @classmethod
    def uncut(cls, teacher: Source, layers: LayerMap) -> Sources:
        """A teacher, and a student still to be cut from it.

        Raises:
            LayerMapError: `layers` is for another number of layers.
            ConfigError: The config has no clear number of layers.
        """
        _check_depth("teacher", num_layers(teacher.config), layers.num_layers, teacher)
        return cls(teacher, None, layers, paper_order(teacher.config))

    @property
    def order_line(self) -> str:
        """The order to patch in, and where it comes from, in one line."""
        if self.order_source == "recorded":
            return f"order {order_name(self.order)}, recorded with the student"
        kind = self.teacher.config.get("model_type")
        return f"order {order_name(self.order)}, the paper's for {kind} (none is recorded)"

    @cached_property
    def files(self) -> FamilyFiles:
        """The tensors of both, found to agree, and of every member that `build` makes of them.

        Without weights they are counted from the configs, as those of a trained student.

        Raises:
            BoomerangError: As `FamilyFiles`.
        """
        opened, student = self.teacher.checkpoint, self.student
        if student is not None and self.teacher.has_weights and student.has_weights:
            return FamilyFiles(opened, Checkpoint.open(student.directory), self.layers)
        if student is not None and (student.directory / "config.json").exists():
            check_configs(opened.config, student.config, student.directory)
        imagined = student_of(opened, self.layers)
        return FamilyFiles(opened, imagined, self.layers, equal=lambda a, b: False)

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where teacher and student are."""
        return tuple(each.directory for each in (self.teacher, self.student) if each is not None)

    @cached_property
    def identities(self) -> tuple[Identity, Identity]:
        """Who teacher and student are; both have weights. Raises as `files`."""
        assert self.student is not None
        opened = self.files.teacher, self.files.student
        teacher, student = (
            identify(source.reference, source.directory, checkpoint.tensors.values())
            for source, checkpoint in zip((self.teacher, self.student), opened, strict=True)
        )
        return teacher, student

    def members(self, order: Order | None = None) -> tuple[Member, ...]:
        """Every member along an order, by default the family's own; the student first."""
        return self.layers.members(self.order if order is None else order)


def _kept_layers(
    teacher: Source, student: Source, keep: tuple[int, ...] | None
) -> tuple[LayerMap, tuple[int, ...] | None]:
    """The kept layers, and the order that the student records."""
    path = student.directory / FILE_NAME
    if path.exists():
        layers, order = read_student_config(student.directory)
        if keep not in (None, layers.kept):
            raise LayerMapError(
                f"says that the student keeps layers {_listed(layers.kept)}, not {_listed(keep)}",
                where=path,
                fix="leave --keep (keep=) out",
            )
        return layers, order
    if keep is None:
        known = known_pair(teacher.directory, student.directory)
        if known is None:
            raise _unknown(teacher, student)
        keep = known.kept
    return LayerMap(keep, num_layers(teacher.config)), None


def _unknown(teacher: Source, student: Source) -> CheckpointError:
    """The error for unknown kept layers, with what the tensors of the two say about them."""
    what = f"has no {FILE_NAME}, and it is no known pair's student"
    fix = "say which teacher layers it keeps with --keep (keep=), such as --keep 0,2,4"
    both = (teacher, student)
    if all(each.config_file is None and has_all_weights(each.directory) for each in both):
        found = propose(*(Checkpoint.open(each.directory) for each in both))
        if found is not None:
            what = f"{what}; its tensors {found}"
            if found.clear:
                kept = _listed(found.kept)
                fix = f"if that is right, give --keep {kept} (keep=[{kept}])"
    return CheckpointError(what, where=student.directory, fix=fix)


def _listed(layers: Iterable[int] | None) -> str:
    return ",".join(map(str, layers or ()))


def _check_depth(who: str, depth: int, expected: int, source: Source) -> None:
    if depth != expected:
        raise LayerMapError(
            f"the {who} has {depth} layers and the kept layers make it {expected}",
            where=source.config_file or source.directory,
        )
