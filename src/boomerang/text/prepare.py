"""The rows of a run: made once, kept in its output, mapped into memory by every process."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.output import new_directory, write_json
from ..errors import BoomerangWarning, DataError
from ..hashing import file_hash
from ..progress import show_progress
from .data_section import Data, Source, read_source
from .documents import Messages
from .pack import Document, Row, interleave, packed, padded
from .rows import ROWS, Phase, Rows, StoredRows, write_arrow
from .tokenise import tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RECORD = "data.json"
# Conversations without a target after which a source is given up.
_PATIENCE = 1000
# A smaller share of targets among the tokens is worth a warning.
_FEW = 0.01
# Raise it when the same text and settings make other rows than before.
_FORMAT = 1


def rows_hash(data: Data, text: str, tokenizer: str, *, reference: bool = False) -> str:
    """A short hash of everything that decides the rows: settings, hashes of text and tokenizer."""
    settings = data.model_dump(exclude={"held_out"})
    content = json.dumps([_FORMAT, settings, text, tokenizer, reference], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class SourceRows:
    """The rows of one source, made as they are asked for, and counts of what was done so far.

    Args:
        source: The source.
        data: Row length and form.
        tokenizer: The teacher's.
        reference: Do as the paper's code does: cut off what does not fit a row, and never make the
            end-of-sequence token a target.

    Attributes:
        name: The source in a word or two.
        documents: Texts and conversations that were read.
        read: Their tokens.
        cut_off: The tokens that are in no row.
        rows: Rows that were made.
        tokens: The tokens in these rows, padding not counted.
        targets: How many of these tokens are learned.
        largest_token: The largest token id in these rows.
    """

    def __init__(
        self, source: Source, data: Data, tokenizer: PreTrainedTokenizerBase, reference: bool
    ) -> None:
        self.name = source.described
        self.documents = self.read = self.cut_off = 0
        self.rows = self.tokens = self.targets = self.largest_token = 0
        self._source, self._data = source, data
        self._tokenizer, self._reference = tokenizer, reference
        # Of the conversations before the first with a target: the first place, all roles.
        self._conversations, self._answered = 0, False
        self._first, self._roles = "", set[str]()

    def __iter__(self) -> Iterator[Row]:
        """The rows in order.

        Raises:
            DataError: The source cannot be read, or the assistant says nothing in it.
        """
        form, eos = packed if self._data.packing else padded, self._tokenizer.eos_token_id
        for row in form(self._documents(), self._data.sequence_length, eos or 0):
            self.rows += 1
            self.tokens += row.length
            self.targets += int(row.targets.sum())
            self.largest_token = max(self.largest_token, int(row.tokens.max()))
            yield row

    def _documents(self) -> Iterator[Document]:
        length, most = self._data.sequence_length, self._source.tokens
        documents = tokenise(self._watched(), self._tokenizer, eos_is_no_target=self._reference)
        for document in documents:
            size = len(document.tokens)
            self.documents += 1
            self.read += size
            if document.response_only:
                self._conversations += 1
                self._answered = self._answered or bool(document.targets.any())
                if self._conversations == _PATIENCE:
                    self.check()
            if self._reference and size > length:
                self.cut_off += size - length
                tokens, targets = document.tokens[:length], document.targets[:length]
                document = replace(document, tokens=tokens, targets=targets)
            yield document
            if most is not None and self.read >= most:
                return

    def _watched(self) -> Iterator[tuple[str, str | Messages]]:
        for where, document in read_source(self._source):
            if isinstance(document, list) and not self._answered:
                self._first = self._first or where
                self._roles.update(message["role"] for message in document)
            yield where, document

    def check(self) -> None:
        """Refuse conversations in which the assistant says nothing.

        Raises:
            DataError: Names the first, and the roles that were found.
        """
        if self._conversations and not self._answered:
            raise DataError(
                f"the first of {self._conversations} conversations in which the assistant says "
                f"nothing; the roles found are {', '.join(sorted(self._roles))}",
                where=self._first,
                fix="name the role that is to be learned assistant",
            )


def make_rows(data: Data, sources: Sequence[SourceRows]) -> Iterator[Row]:
    """The rows of all sources, mixed by weight within each phase."""
    streams = [iter(source) for source in sources]
    for phase in data.phases:
        weights = [data.all_sources[number].weight for number in phase]
        for _, row in interleave([streams[number] for number in phase], weights):
            yield row


def prepare_rows(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    content: str,
    *,
    reference: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Tokenise a text into a directory, unless that was done.

    The rows are an Arrow file, which `datasets.Dataset.from_file` opens, with the columns of `Row`.
    Beside it `data.json` has the counts of `SourceRows`. The directory appears when both are
    complete.

    Args:
        data: Sources, row length and form.
        tokenizer: The teacher's.
        directory: Where the rows go; those of another text or setting are replaced.
        content: The hash that `rows_hash` gives.
        reference: As for `SourceRows`.
        say: Called with a line for each thing that is done.

    Raises:
        DataError: A source cannot be used, or there is too little text.
        OutputError: The directory cannot be written.
    """
    found = _read_record(directory)
    if found.get("hash") == content and _is_whole(directory / ROWS, found):
        say(f"Taking the {found['rows']:,} rows of text in {directory}")
        _check_enough(data, found["rows"])
        return
    sources = [SourceRows(each, data, tokenizer, reference) for each in data.all_sources]
    names = [source.name for source in sources]
    say(f"Tokenising {'; '.join(names)} into {directory}")
    shutil.rmtree(directory, ignore_errors=True)
    began = time.monotonic()

    def total(count: str) -> int:
        return sum(getattr(source, count) for source in sources)

    def words(_: int) -> str:
        tokens = total("read")
        speed = tokens / max(time.monotonic() - began, 1e-9)
        return f"{total('documents'):,} documents, {tokens:,} tokens, {speed:,.0f} tokens/s"

    with new_directory(directory) as partial:
        with show_progress("Tokenising", words=words) as advance:

            def counted() -> Iterator[Row]:
                for row in make_rows(data, sources):
                    advance(1)
                    yield row

            rows = write_arrow(partial / ROWS, counted(), data.sequence_length)
        for source in sources:
            source.check()
        _check_enough(data, rows)
        record: dict[str, Any] = {"hash": content, "file": file_hash(partial / ROWS), "rows": rows}
        record |= {count: total(count) for count in ("tokens", "targets", "cut_off")}
        record["largest_token"] = max(source.largest_token for source in sources)
        record["sources"] = [{"name": source.name, "rows": source.rows} for source in sources]
        if not record["targets"]:
            where = ", ".join(names)
            raise DataError("no token in it is to be predicted", where=where, fix="give more text")
        write_json(partial / RECORD, record)
    for phase in data.phases:
        parts = ", ".join(f"{sources[i].rows:,} rows of {names[i]}" for i in phase)
        if len(phase) > 1:
            say(f"Mixed as many as the first source to run out allows: {parts}")
        elif len(names) > 1:
            say(f"Made {parts}")
    for source in sources:
        if source.targets < _FEW * source.tokens:
            warnings.warn(
                f"{source.name}: only {source.targets / source.tokens:.2%} of its tokens are "
                "learned, because the assistant says little in it",
                BoomerangWarning,
                stacklevel=2,
            )
    if lost := record["cut_off"]:
        say(f"Cut off {lost:,} of {total('read'):,} tokens, of documents longer than a row")


def load_rows(data: Data, directory: Path) -> tuple[Rows, Rows | None]:
    """Map the rows that `prepare_rows` made: those to train on, and the `held_out` last ones.

    Raises:
        DataError: They are not there.
    """
    record = _read_record(directory)
    if not record:
        raise DataError(
            "holds no rows",
            where=directory,
            fix="the first process makes them: see its messages, and whether all see `out`",
        )
    rows = StoredRows(directory / ROWS)
    cut = len(rows) - data.held_out
    train = Rows(rows.part(0, cut), data.packing)
    held_out = Rows(rows.part(cut, len(rows)), data.packing) if data.held_out else None
    return train, held_out


def largest_token(directory: Path) -> int:
    """The largest token id in the rows that `prepare_rows` made; 0 if they do not say."""
    return int(_read_record(directory).get("largest_token", 0))


def load_phases(data: Data, directory: Path) -> list[Phase]:
    """The phases of the rows to train on, in their order; none where there is one mix.

    Raises:
        DataError: A phase has no rows.
    """
    if len(data.phases) == 1:
        return []
    sources = data.all_sources
    made = [source["rows"] for source in _read_record(directory)["sources"]]
    rows = [sum(made[number] for number in phase) for phase in data.phases]
    rows[-1] -= data.held_out
    for number, count in enumerate(rows, 1):
        if count < 1:
            raise DataError(
                f"phase {number} has no rows to train on",
                where="data.sources",
                fix="give it more text, or hold out fewer rows",
            )
    whole = sum(source.weight for source in sources)
    shares = [sum(sources[number].weight for number in phase) / whole for phase in data.phases]
    return [Phase(count, share) for count, share in zip(rows, shares, strict=True)]


def _check_enough(data: Data, rows: int) -> None:
    if rows > data.held_out:
        return
    where = ", ".join(source.described for source in data.all_sources)
    if not rows:
        raise DataError("there is no text in it", where=where)
    raise DataError(
        f"the text makes {rows} rows of {data.sequence_length} tokens, {data.held_out} of them "
        "held out",
        where=where,
        fix="give more text, or shorter or fewer held-out rows",
    )


def _is_whole(rows: Path, record: dict[str, Any]) -> bool:
    """Whether a file of rows is as it was written; damaged rows are made again."""
    try:
        return file_hash(rows) == record.get("file")
    except OSError:
        return False


def _read_record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
