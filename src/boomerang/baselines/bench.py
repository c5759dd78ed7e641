"""Baselines measured beside a family, on the same text and tasks and into the same results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.lock import locked
from ..checkpoint.sources import Source, Sources
from ..errors import LayerMapError
from ..evaluate.measure import measure
from ..evaluate.options import Measure
from ..evaluate.parallel import is_first
from ..evaluate.perplexity import Reference
from ..evaluate.results import Row
from ..family import Family
from ..layers import LayerMap, Member, Order
from ..models.config import num_layers
from ..models.modules import layer_stack
from .standalone import Standalone

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Bench:
    """A family's sources and the live teacher, for measuring baselines.

    Attributes:
        sources: Teacher and student; the student's weights are not read.
        loading: How models are loaded: `device`, `dtype` and what `from_pretrained` takes.
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
        weights: bool = False,
        **loading: Any,
    ) -> Bench:
        """The bench of a teacher and a student.

        Args:
            teacher: A directory or a hub id, with or without `@revision`.
            student: The same.
            keep: The teacher layers it keeps, where it has no `student_config.json`.
            weights: Whether the student's weights are needed.
            **loading: For `from_pretrained`; the dtype is by default the teacher's.

        Raises:
            BoomerangError: As `Sources.pair`.
        """
        trust = bool(loading.get("trust_remote_code", False))
        sources = Sources.pair(
            Source.open(teacher, trust_remote_code=trust),
            Source.open(student, trust_remote_code=trust, weights=weights),
            keep=keep,
        )
        return cls(sources, loading)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The live teacher, loaded on first use."""
        return self.sources.teacher.model(**self.loading)

    def sizes(self, wanted: Sequence[int] | None = None) -> list[int]:
        """Numbers of layers to make baselines of, increasing.

        Args:
            wanted: Which; by default those of the family's members below the teacher.

        Raises:
            LayerMapError: One is not below the teacher's.
        """
        depth = self.sources.layers.num_layers
        if wanted is None:
            return sorted({member.num_layers for member in self.sources.members()} - {depth})
        for size in wanted:
            if not 1 <= size < depth:
                raise LayerMapError(
                    f"{size} of {depth} layers is no smaller model", fix=f"give 1 to {depth - 1}"
                )
        return sorted(set(wanted))

    def members(
        self, wanted: Sequence[int] | None = None, order: Order | None = None
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
            reference: A directory or a hub id, with or without `@revision`.
            own_tokenizer: Whether it has a tokenizer that may differ from the teacher's.

        Raises:
            CheckpointError: It is missing or unreadable.
        """
        trust = self.sources.teacher.trust_remote_code
        source = Source.open(reference, trust_remote_code=trust)
        # What the teacher was loaded in: the members have its dtype, whatever they were saved in.
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

        Of a model that sees the text in other tokens than the teacher, or in shorter windows,
        there are no rows of perplexity: only bits per byte and the tasks' metrics are comparable.

        Args:
            models: Made one at a time; only one is in memory besides the teacher.
            out: The directory of the family's own evaluation, or a new one.
            **settings: What to measure on and how, the fields of
                `evaluate.options.Measure`.

        Returns:
            The rows, measured before or now.

        Raises:
            BoomerangError: As in `boomerang.evaluate`.
        """
        rows: list[Row] = []
        with locked(Path(out), when=is_first()):
            for each in models:
                rows += self._measure(each.build(), each, out, settings)
        return rows

    def check(self, out: str | Path, **settings: Any) -> None:
        """Claim a directory of results, or refuse it before work goes into models for it.

        Args:
            out: As in `measure`.
            **settings: As in `measure`.

        Raises:
            BoomerangError: As in `boomerang.evaluate`.
        """
        with locked(Path(out), when=is_first()):
            self._measure(self.model, None, out, settings)

    def _measure(
        self,
        model: PreTrainedModel,
        standalone: Standalone | None,
        out: str | Path,
        settings: dict[str, Any],
    ) -> list[Row]:
        # The family of a model with itself: it has one member, which is the model.
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
