"""The sources of text: the section `data` of a recipe, and the documents of each source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from ..errors import DataError
from ..settings import Section
from .documents import Messages, document_of, in_pieces, iter_documents

Files = Annotated[list[str], Field(min_length=1)]

# Characters that are tokenised at once: a tokenizer needs hundreds of bytes for each.
LONGEST = 1 << 20


class Source(Section):
    """One source of text among several: files, or a data set on the hub.

    Args:
        files: As in `Data`.
        dataset: The id of a data set on the hub, which is streamed.
        name: The data set's configuration, if it has several.
        split: Its split, `train` by default.
        revision: Its branch, tag or commit. Only a commit names the same text for ever.
        tokens: Stop after the document that reaches this many tokens; None for no limit.
        weight: The share of this source in the rows; see `Data`.
        phase: The phase of the run in which the source is used, from 1; see `Data`.
    """

    files: Files | None = None
    dataset: str | None = None
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    phase: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        if (self.files is None) == (self.dataset is None):
            raise ValueError("a source is given by either `files` or `dataset`: give just one")
        if self.files is not None and (self.name or self.split or self.revision):
            raise ValueError("name, split and revision go with `dataset`, not with `files`")
        return self

    @property
    def described(self) -> str:
        """The source in a word or two."""
        if self.files is not None:
            return ", ".join(self.files)
        parts = (self.dataset, self.name, self.split)
        named = " ".join(part for part in parts if part is not None)
        return named if self.revision is None else f"{named}@{self.revision}"


class Data(Section):
    """The text to train on, given by `files` or by `sources`.

    Several sources are mixed row by row, in proportion to their weights, until one of them runs out
    (`pack.interleave`). A run goes through one phase after the other. A phase has the share of the
    run's rows that its sources' weights have in the sum of all.

    Args:
        files: Text, JSON, parquet or CSV files; see `documents.iter_documents`.
        sources: Files and data sets, to be mixed.
        sequence_length: Tokens in a row, at most as many as the teacher has positions for.
        packing: Several documents a row, or else one a row, padded; see `pack`.
        held_out: Rows at the end of the text that are kept for evaluation.
    """

    files: Files | None = None
    sources: Annotated[list[Source], Field(min_length=1)] | None = None
    sequence_length: Annotated[int, Field(ge=2)]
    packing: bool = True
    held_out: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if (self.files is None) == (self.sources is None):
            raise ValueError("the text is given by either `files` or `sources`: give just one")
        found = {source.phase for source in self.all_sources}
        if found != set(range(1, len(found) + 1)):
            raise ValueError(f"phases are {sorted(found)}: count them from 1, leaving none out")
        return self

    @property
    def all_sources(self) -> list[Source]:
        """The sources; plain `files` are one."""
        return [Source(files=self.files)] if self.sources is None else self.sources

    @property
    def phases(self) -> list[list[int]]:
        """The sources of each phase, by their place in `all_sources`."""
        sources = self.all_sources
        last = max(source.phase for source in sources)
        return [
            [i for i, source in enumerate(sources) if source.phase == phase]
            for phase in range(1, last + 1)
        ]


def read_source(source: Source) -> Iterator[tuple[str, str | Messages]]:
    """The documents of a source in order, each with the place that errors name.

    A text of more than 1,048,576 characters comes in several pieces; see `iter_documents`.

    Raises:
        DataError: A file, the data set or a document cannot be read.
    """
    if source.dataset is not None:
        yield from _stream(source)
        return
    for path in map(Path, source.files or ()):
        yield from iter_documents(path, LONGEST)


def _stream(source: Source) -> Iterator[tuple[str, str | Messages]]:
    datasets = import_datasets()
    place = f"data set {source.described}"
    number = 0
    split = source.split or "train"
    try:
        records: Any = datasets.load_dataset(
            source.dataset, source.name, split=split, revision=source.revision, streaming=True
        )
        for number, record in enumerate(records, 1):
            where = f"{place}, row {number}"
            for piece in in_pieces(document_of(record, where), LONGEST):
                yield where, piece
    except DataError:
        raise
    except Exception as error:  # of the network, the hub, or any of many file formats
        reason = " ".join(str(error).split())
        at = f" after {number} rows" if number else ""
        raise DataError(
            f"cannot be streamed{at} ({type(error).__name__}: {reason})",
            where=place,
            fix="see that the hub can be reached and has it, or give `files`",
        ) from error


def import_datasets() -> Any:
    """The `datasets` library, which nothing but the preparation of data needs.

    Raises:
        DataError: It is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            "text is prepared with the library datasets, which is not installed",
            fix="pip install datasets",
        ) from None
    return datasets
