"""What baselines are measured with: a family's teacher, on the same text and into one results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..checkpoint.card import licence, licence_text
from ..checkpoint.extra_files import copy_extra_files, find_extra_files
from ..checkpoint.jsonfile import read_json_object
from ..checkpoint.lock import locked
from ..checkpoint.output import check_apart, check_free, new_directory, write_json
from ..checkpoint.sources import Source, Sources
from ..errors import CheckpointError, LayerMapError
from ..evaluate.measure import measure
from ..evaluate.options import Measure
from ..evaluate.parallel import is_first, own_device
from ..evaluate.perplexity import Reference
from ..evaluate.results import Row
from ..family import Family
from ..layers import LayerMap, Member, Order
from ..models.config import num_layers
from ..models.parts import layer_stack
from ..version import __version__
from . import BASELINES, check_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECORD = "baseline.json"


@dataclass(frozen=True)
class Standalone:
    """A model of one size, made when it is needed, so that only one of several is in memory.

    Attributes:
        series: The name of the baseline.
        num_layers: Layers of the model.
        hash: Equal for equal models only.
        build: Makes it: an ordinary transformers model in evaluation mode.
        tokenizer: Its own tokenizer, if that is not the teacher's.
        about: What it is, as JSON values, for its record on disk.
    """

    series: str
    num_layers: int
    hash: str
    build: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase | None = None
    about: dict[str, object] | None = None


@dataclass(frozen=True)
class Bench:
    """A family's sources and the live teacher, for measuring baselines.

    Attributes:
        sources: Teacher and student; the student's weights are not read.
        loading: How models are loaded: `device`, `dtype` (by default the teacher's, for all
            models) and what `from_pretrained` takes.
    """

    sources: Sources
    loading: dict[str, Any]

    @classmethod
    def open(
        cls,
        teacher: str | Path,
        student: str | Path,
        *,
        keep: Iterable[int] | None = None,
        **loading: Any,
    ) -> Bench:
        """The bench of a teacher and a student; arguments and errors as in `Sources.open`."""
        trust = bool(loading.get("trust_remote_code", False))
        sources = Sources.pair(
            Source.open(teacher, trust_remote_code=trust),
            Source.open(student, trust_remote_code=trust, weights=False),
            keep=keep,
        )
        return cls(sources, loading)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The live teacher, loaded on first use."""
        device = own_device(self.loading.get("device"))
        return self.sources.teacher.model(**self.loading | {"device": device})

    def sizes(self, wanted: Sequence[int] | None = None) -> list[int]:
        """Wanted numbers of layers, increasing; by default the family's below the teacher.

        Raises:
            LayerMapError: One is not below the teacher's.
        """
        depth = self.sources.layers.num_layers
        if wanted is None:
            return sorted({member.num_layers for member in self.sources.members()} - {depth})
        for size in wanted:
            check_size(size, depth)
        return sorted(set(wanted))

    def members(
        self, wanted: Sequence[int] | None, order: Order | None = None
    ) -> list[Member] | None:
        """The members with wanted numbers of layers along an order; None for all.

        Raises:
            LayerMapError: The order has no member of such a size.
        """
        if wanted is None:
            return None
        by_size = {member.num_layers: member for member in self.sources.members(order)}
        for size in wanted:
            if size not in by_size:
                raise LayerMapError(
                    f"no member has {size} layers",
                    fix=f"their sizes are {', '.join(map(str, sorted(by_size)))}",
                )
        return [by_size[size] for size in sorted(set(wanted))]

    def checkpoint(
        self, series: str, reference: str | Path, *, own_tokenizer: bool = False
    ) -> Standalone:
        """A model on disk or on the hub, to be loaded as the teacher is.

        Args:
            series: The name of the series.
            reference: A directory or a hub id.
            own_tokenizer: Whether its tokenizer may differ from the teacher's.

        Raises:
            CheckpointError: It is missing or unreadable.
        """
        trust = self.sources.teacher.trust_remote_code
        source = Source.open(reference, trust_remote_code=trust)
        # Members have the dtype that the teacher was loaded in, however they were saved.
        loading = {**self.loading, "dtype": self.model.dtype}
        return Standalone(
            series=series,
            num_layers=num_layers(source.config),
            hash=source.content_hash,
            build=partial(source.model, **loading),
            tokenizer=source.tokenizer if own_tokenizer else None,
        )

    def measure(self, models: Iterable[Standalone], out: str | Path, **settings: Any) -> list[Row]:
        """Measure models one after the other, each with `member` () and `order` None in its rows.

        A model that sees the text in other tokens than the teacher, or in shorter windows, gets no
        rows of perplexity: only bits per byte and the tasks' metrics are comparable.

        Args:
            models: Made one at a time; only one is in memory besides the teacher.
            out: The directory of the family's own evaluation, or a new one.
            **settings: What to measure on, the fields of `evaluate.options.Measure`.

        Returns:
            The rows, measured before or now.

        Raises:
            BoomerangError: As in `boomerang.evaluate`.
        """
        rows: list[Row] = []
        with self.writing(out):
            for each in models:
                rows += self._measure(each.build(), each, out, settings)
        return rows

    def check(self, out: str | Path, **settings: Any) -> None:
        """Claim a directory of results, or refuse it before work goes into models for it.

        Raises:
            BoomerangError: As in `boomerang.evaluate`.
        """
        with self.writing(out):
            self._measure(self.model, None, out, settings)

    @contextmanager
    def writing(self, out: str | Path) -> Iterator[None]:
        """Keeps other processes out of a directory of results during the block.

        Raises:
            OutputError: It is, holds or lies inside teacher or student, or another process writes.
        """
        both = (self.sources.teacher, self.sources.student)
        check_apart(Path(out), *(each.directory for each in both if each is not None))
        with locked(Path(out), when=is_first()):
            yield

    def _measure(
        self,
        model: PreTrainedModel,
        standalone: Standalone | None,
        out: str | Path,
        settings: dict[str, Any],
    ) -> list[Row]:
        # The family of a model with itself has one member, which is the model.
        depth, teacher = len(layer_stack(model)), self.sources.teacher
        whole = LayerMap(range(depth), depth)
        return measure(
            Family(model, model, whole),
            out,
            Measure.of(settings),
            tokenizer=(standalone and standalone.tokenizer) or teacher.tokenizer,
            teacher_hash=teacher.content_hash,
            student_hash=standalone.hash if standalone else teacher.content_hash,
            series=standalone.series if standalone else "baselines",
            members=[whole.member(blocks=())] if standalone else [],
            reference=Reference(self.sources.layers.kept, self.model.config, teacher.tokenizer),
        )


def save_model(model: Standalone, out: Path, teacher: Source) -> Path:
    """Write a model that was made from a teacher as a plain checkpoint, whole or not at all.

    A directory that holds the very same model is left as it is.

    Args:
        model: What to write.
        out: The directory that its own directory goes into: `TEACHER-METHOD-9L`.
        teacher: The teacher, whose tokenizer and licence it takes.

    Returns:
        The checkpoint's directory.

    Raises:
        OutputError: The directory holds something else, or cannot be written.
        CheckpointError: A file of the teacher cannot be read.
    """
    target = out / f"{teacher.name}-{model.series}-{model.num_layers}L"
    if _hash_of(target) == model.hash:
        return target
    check_free(target)
    companions = find_extra_files(teacher.directory, same_layers=False)
    record = {
        "method": model.series,
        "num_layers": model.num_layers,
        "hash": model.hash,
        "teacher": teacher.content_hash,
        **(model.about or {}),
        "tools": {"boomerang": __version__},
    }
    with new_directory(target) as partial:
        model.build().save_pretrained(partial)
        write_json(partial / RECORD, record)
        (partial / "README.md").write_text(_card(model, teacher), encoding="utf-8")
        copy_extra_files(companions, partial)
    return target


def _hash_of(directory: Path) -> object:
    try:
        return read_json_object(directory / RECORD).get("hash")
    except CheckpointError:
        return None


def _card(model: Standalone, teacher: Source) -> str:
    terms, baseline = licence(teacher.directory), BASELINES[model.series]
    front = {**terms, "library_name": "transformers", "pipeline_tag": "text-generation"}
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---

# {teacher.name} pruned to {model.num_layers} layers

A baseline, made without training from `{teacher.name}` to be compared with. {baseline.label}:
{baseline.help} `{RECORD}` says which layers it is made of.

It is a plain checkpoint of the teacher's architecture: any tool that reads the teacher reads it.

## Licence

{licence_text(terms)}
"""
