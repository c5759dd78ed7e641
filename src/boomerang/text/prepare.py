"""The rows of a run: made once, kept in its output, mapped into memory by every process."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.output import new_directory, write_json
from ..errors import BoomerangWarning, DataError
from ..progress import show_progress
from .documents import Messages
from .pack import Document, Row, interleave, packed, padded
from .rows import ROWS, Phase, Rows, StoredRows, write_arrow
from .sources import Data, Source, read_source
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


@dataclass
class SourceTally:
    """What a source gave so far.

    Attributes:
        rows: Its rows.
        tokens: The tokens in these rows, padding not counted.
        targets: How many of these tokens are learned.
        conversations: The conversations that were read.
        answered: Whether a conversation had a target.
        first: The place of the first conversation.
        roles: The roles in conversations, up to the first that has a target.
    """

    rows: int = 0
    tokens: int = 0
    targets: int = 0
    conversations: int = 0
    answered: bool = False
    first: str = ""
    roles: set[str] = field(default_factory=set)

    def see(
        self, documents: Iterator[tuple[str, str | Messages]]
    ) -> Iterator[tuple[str, str | Messages]]:
        """Pass documents on and note their roles."""
        for where, document in documents:
            if isinstance(document, list) and not self.answered:
                self.first = self.first or where
                self.roles.update(message["role"] for message in document)
            yield where, document

    def check(self) -> None:
        """Refuse conversations in which the assistant says nothing."""
        if self.conversations and not self.answered:
            raise DataError(
                f"the first of {self.conversations} conversations in which the assistant says "
                f"nothing; the roles found are {', '.join(sorted(self.roles))}",
                where=self.first,
                fix="name the role that is to be learned assistant",
            )


@dataclass
class Tally:
    """What was done so far.

    Attributes:
        documents: Texts and conversations that were read.
        tokens: All their tokens.
        cut_off: The tokens that are in no row, because documents longer than a row were cut off.
        largest_token: The largest token id in a row.
        sources: By source.
    """

    documents: int = 0
    tokens: int = 0
    cut_off: int = 0
    largest_token: int = 0
    sources: list[SourceTally] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def words(self, rows: int) -> str:
        """The counts and the speed so far, in words."""
        speed = self.tokens / max(time.monotonic() - self._began, 1e-9)
        return f"{self.documents:,} documents, {self.tokens:,} tokens, {speed:,.0f} tokens/s"


def rows_hash(data: Data, text: str, tokenizer: str, *, reference: bool = False) -> str:
    """A short hash of everything that decides the rows.

    Args:
        data: The settings; `held_out` only decides which rows are which.
        text: Hash of the text.
        tokenizer: Hash of the tokenizer's files.
        reference: As in `make_rows`.
    """
    settings = data.model_dump(exclude={"held_out"})
    content = json.dumps([_FORMAT, settings, text, tokenizer, reference], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def make_rows(
    data: Data, tokenizer: PreTrainedTokenizerBase, tally: Tally, *, reference: bool = False
) -> Iterator[Row]:
    """The rows of a text, one at a time and with little of the text in memory.

    Args:
        data: Sources, row length and form.
        tokenizer: The teacher's.
        tally: Kept up to date.
        reference: As the paper's code does it: a document that is longer than a row is cut off, and
            the end-of-sequence token never is a target.

    Raises:
        DataError: A source cannot be read or holds something else than text.
    """
    sources = data.all_sources
    tally.sources = [SourceTally() for _ in sources]
    streams = [
        _rows(source, data, tokenizer, tally, own, reference)
        for source, own in zip(sources, tally.sources, strict=True)
    ]
    for phase in data.phases:
        weights = [sources[number].weight for number in phase]
        for turn, row in interleave([streams[number] for number in phase], weights):
            own = tally.sources[phase[turn]]
            own.rows += 1
            own.tokens += row.length
            own.targets += int(row.targets.sum())
            tally.largest_token = max(tally.largest_token, int(row.tokens.max()))
            yield row


def _rows(
    source: Source,
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    tally: Tally,
    own: SourceTally,
    reference: bool,
) -> Iterator[Row]:
    length, eos = data.sequence_length, tokenizer.eos_token_id

    def documents() -> Iterator[Document]:
        taken = 0
        read = own.see(read_source(source))
        for document in tokenise(read, tokenizer, eos_is_no_target=reference):
            size = len(document.tokens)
            if document.response_only:
                own.conversations += 1
                own.answered = own.answered or bool(document.targets.any())
                if own.conversations == _PATIENCE:
                    own.check()
            tally.documents += 1
            tally.tokens += size
            if reference and size > length:
                tally.cut_off += size - length
                tokens, targets = document.tokens[:length], document.targets[:length]
                document = replace(document, tokens=tokens, targets=targets)
            yield document
            taken += size
            if source.tokens is not None and taken >= source.tokens:
                return

    form = packed if data.packing else padded
    yield from form(documents(), length, 0 if eos is None else eos)


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
    The directory appears when they are complete. Beside them `data.json`: `hash`, the number of
    `rows`, of `tokens` in them, of `targets` among these and of tokens `cut_off`, the
    `largest_token`, and the rows of each source.

    Args:
        data: Sources, row length and form.
        tokenizer: The teacher's.
        directory: Where the rows go; those of another text or setting are replaced.
        content: What `rows_hash` says.
        reference: As in `make_rows`.
        say: Told in a line what is done.

    Raises:
        DataError: A source cannot be used, or there is too little text.
        OutputError: The directory cannot be written.
    """
    found = _read_record(directory)
    if found.get("hash") == content:
        say(f"Taking the {found['rows']:,} rows of text in {directory}")
        _check_enough(data, found["rows"])
        return
    names = [source.described for source in data.all_sources]
    say(f"Tokenising {'; '.join(names)} into {directory}")
    tally = Tally()
    shutil.rmtree(directory, ignore_errors=True)
    with new_directory(directory) as partial:
        rows = make_rows(data, tokenizer, tally, reference=reference)
        with show_progress("Tokenising", words=tally.words) as advance:

            def counted() -> Iterator[Row]:
                for row in rows:
                    advance(1)
                    yield row

            number = write_arrow(partial / ROWS, counted(), data.sequence_length)
        for own in tally.sources:
            own.check()
        _check_enough(data, number)
        targets = sum(own.targets for own in tally.sources)
        if not targets:
            where = ", ".join(names)
            raise DataError("no token in it is to be predicted", where=where, fix="give more text")
        record = {
            "hash": content,
            "rows": number,
            "tokens": sum(own.tokens for own in tally.sources),
            "targets": targets,
            "largest_token": tally.largest_token,
            "cut_off": tally.cut_off,
            "sources": [
                {"name": name, "rows": own.rows}
                for name, own in zip(names, tally.sources, strict=True)
            ],
        }
        write_json(partial / RECORD, record)
    for phase in data.phases:
        parts = ", ".join(f"{tally.sources[i].rows:,} rows of {names[i]}" for i in phase)
        if len(phase) > 1:
            say(f"Mixed as many as the first source to run out allows: {parts}")
        elif len(names) > 1:
            say(f"Made {parts}")
    for name, own in zip(names, tally.sources, strict=True):
        if own.targets < _FEW * own.tokens:
            warnings.warn(
                f"{name}: only {own.targets / own.tokens:.2%} of its tokens are learned, because "
                "the assistant says little in it",
                BoomerangWarning,
                stacklevel=2,
            )
    if tally.cut_off:
        say(f"Cut off {tally.cut_off:,} of {tally.tokens:,} tokens, of documents longer than a row")


def load_rows(data: Data, directory: Path) -> tuple[Rows, Rows | None]:
    """Map the rows that `prepare_rows` made.

    Args:
        data: The same settings.
        directory: Where they are.

    Returns:
        The rows to train on, and the `held_out` last ones, None for none.

    Raises:
        DataError: They are not there.
    """
    record = _read_record(directory)
    if not record:
        raise DataError(
            "holds no rows",
            where=directory,
            fix="see what the first process says, which makes them; all must see `out`",
        )
    rows = StoredRows.open(directory / ROWS, packed=data.packing)
    cut = len(rows) - data.held_out
    return rows.part(0, cut), rows.part(cut, len(rows)) if data.held_out else None


def largest_token(directory: Path) -> int:
    """The largest token id in the rows that `prepare_rows` made; 0 if they do not say."""
    return int(_read_record(directory).get("largest_token", 0))


def load_phases(data: Data, directory: Path) -> list[Phase]:
    """The phases of the rows to train on, in their order; none where there is one mix.

    Args:
        data: The same settings.
        directory: Where the rows are.

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


def _read_record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
