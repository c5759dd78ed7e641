"""Baselines measured beside a family, on the same text and tasks and into the same results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.directory import read_config
from ..checkpoint.loading import load_model, load_tokenizer
from ..checkpoint.lock import locked
from ..checkpoint.pairing import Pairing, pair_up
from ..checkpoint.resolve import resolve
from ..errors import LayerMapError
from ..evaluate.measure import measure
from ..evaluate.options import Measure
from ..evaluate.parallel import is_first
from ..evaluate.perplexity import Reference
from ..evaluate.results import Row
from ..family import Family
from ..hashing import content_hash
from ..layers import LayerMap, Member, Order
from ..models.config import num_layers
from ..models.modules import layer_stack
from .standalone import Standalone

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Bench:
    """A family, as far as its baselines have to know it.

    Attributes:
        teacher: The teacher's directory.
        pairing: How its student goes with it.
        loading: How models are loaded: `device`, `dtype` and what `from_pretrained` takes.
    """

    teacher: Path
    pairing: Pairing
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
        """The bench of a teacher and a student on disk; weights are not read yet.

        Args:
            teacher: A directory or a hub id, with or without `@revision`.
            student: The same; only its kept layers and its order count.
            keep: The teacher layers it keeps, where it has no `student_config.json`.
            **loading: `device`, `dtype` (by default the teacher's own, for all models) and more for
                `from_pretrained`.

        Raises:
            CheckpointError: One of the two is missing or unreadable.
            LayerMapError, ArchitectureError: They do not go together.
        """
        trust = bool(loading.get("trust_remote_code", False))
        directory = resolve(teacher, trust_remote_code=trust)
        pairing = pair_up(directory, resolve(student, weights=False), keep)
        depth = num_layers(read_config(directory))
        if pairing.layers.num_layers != depth:
            raise LayerMapError(
                f"the teacher has {depth} layers and the kept layers make it "
                f"{pairing.layers.num_layers}",
                where=directory,
            )
        return cls(directory, pairing, loading)

    @property
    def layers(self) -> LayerMap:
        """The teacher layers that the student keeps."""
        return self.pairing.layers

    @property
    def order(self) -> Order:
        """The order recorded with the student, else the paper's."""
        return self.pairing.order

    @cached_property
    def teacher_hash(self) -> str:
        """The content hash of the teacher."""
        return content_hash(self.teacher)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return load_tokenizer(self.teacher, **self._for_tokenizer)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The teacher, loaded when it is asked for."""
        return load_model(self.teacher, **self.loading)

    @property
    def _for_tokenizer(self) -> dict[str, bool]:
        return {"trust_remote_code": bool(self.loading.get("trust_remote_code", False))}

    def sizes(self, wanted: Sequence[int] | None = None) -> list[int]:
        """Numbers of layers to make baselines of, increasing.

        Args:
            wanted: Which; by default those of the family's members below the teacher.

        Raises:
            LayerMapError: One is not below the teacher's.
        """
        depth = self.layers.num_layers
        if wanted is None:
            members = self.layers.members(self.order)
            return sorted({member.num_layers for member in members} - {depth})
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
        members = self.layers.members(self.order if order is None else order)
        by_size = {member.num_layers: member for member in members}
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
        directory = resolve(reference, **self._for_tokenizer)
        # What the teacher was loaded in: the members have its dtype, whatever they were saved in.
        loading = {**self.loading, "dtype": self.model.dtype}
        return Standalone(
            series=series,
            num_layers=num_layers(read_config(directory)),
            hash=content_hash(directory),
            build=partial(load_model, directory, **loading),
            tokenizer=load_tokenizer(directory, **self._for_tokenizer) if own_tokenizer else None,
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
        depth = len(layer_stack(model))
        whole = LayerMap(range(depth), depth)
        return measure(
            Family(model, model, whole),
            out,
            Measure.of(settings),
            tokenizer=(standalone and standalone.tokenizer) or self.tokenizer,
            teacher_hash=self.teacher_hash,
            student_hash=standalone.hash if standalone else self.teacher_hash,
            series=standalone.series if standalone else "baselines",
            members=[whole.member(blocks=())] if standalone else [],
            reference=Reference(self.layers.kept, self.model.config, self.tokenizer),
        )
