"""Small parts of a recipe: keys that have keys of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Part = Literal["embedding", "head"]
Distance = Literal["cosine", "relative_squared_error"]
Files = Annotated[list[str], Field(min_length=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PatchCount = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A dict with known keys, which never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeepEvery(Section):
    """Kept layers by three numbers; see `LayerMap.every`."""

    every: int
    first: int = 1
    last: int = 2


class ModelOptions(Section):
    """How teacher and student are loaded, as in transformers.

    Args:
        attn_implementation: `sdpa`, `eager`, `flash_attention_2` ...; by default its own choice.
        trust_remote_code: Run Python code that comes with the checkpoints.
    """

    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def for_tokenizer(self) -> dict[str, Any]:
        """Keyword arguments of `load_tokenizer`."""
        return {"trust_remote_code": self.trust_remote_code}

    def for_model(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        if self.attn_implementation is None:
            return self.for_tokenizer()
        return {"attn_implementation": self.attn_implementation, **self.for_tokenizer()}


class Loss(Section):
    """The weights of the three terms; one of weight 0 is not computed.

    The loss of a step is `ce`·CE + `kl`·τ²·KL(teacher‖student) + `alignment`/(M+1) · Σ over the M+1
    aligned pairs of their mean distance (arXiv 2510.05064, section 3.2). The defaults are the
    paper's.

    Args:
        ce: Weight of the cross-entropy with the text.
        kl: Weight of the divergence from the teacher's predictions.
        alignment: Weight of the mean distance over all aligned pairs of hidden states.
        temperature: τ of the KL term.
        distance: `cosine`: 1 - cos(a, b); `relative_squared_error`: ‖a-b‖²/‖b‖², b the teacher's.
    """

    ce: Weight = 1.0
    kl: Weight = 0.1
    alignment: Weight = 2.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    distance: Distance = "cosine"

    @model_validator(mode="after")
    def _one_term(self) -> Loss:
        if not (self.ce or self.kl or self.alignment):
            raise ValueError("ce, kl and alignment are all 0: there is nothing to learn from")
        return self


class Evaluate(Section):
    """What is measured on the held-out rows besides the student.

    Args:
        members: Members of the family, as numbers of patched blocks along the recipe's order;
            by default the first size above the student, the middle, and the last below the teacher.
    """

    members: list[PatchCount] | None = None


class Source(Section):
    """One source of text among several: files, or a data set on the hub.

    Args:
        files: As in `Data`.
        dataset: The id of a data set on the hub, whose rows have `text` or `messages`. It is
            streamed: of a large one only what is used is downloaded.
        name: The data set's configuration, if it has several.
        split: Its split, `train` by default.
        revision: Its branch, tag or commit. Only a commit names the same text for ever.
        tokens: Go no further than the document that makes it so many tokens; by default the source
            is read to its end.
        weight: The share of this source in the rows; see `Data`.
        phase: When in the run they come, counted from 1; see `Data`.
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

    Several sources are mixed row by row: after any number of rows each source has given its
    `weight` over the sum of all weights, as evenly as whole rows allow, so that a weight is a share
    of the tokens (padding counted). The mix ends with the source that runs out first; what is left
    of the others is not used, and nothing is repeated. So the rows do not depend on the seed; it
    decides their order in training.

    Sources of several phases are mixed phase by phase, and a run goes through one phase after the
    other. A phase has the share of the run's rows that its sources' weights have in the sum of all.

    Args:
        files: UTF-8 text: a document each, or several with `<|endoftext|>` between them. Or
            `.jsonl` and `.parquet` files with a document in each line or row: a string `text`, or a
            list `messages`, a conversation, of which only what the assistant says is learned.
        sources: Files and data sets, to be mixed.
        sequence_length: Tokens in a row, at most as many as the teacher has positions for.
        packing: Documents one after the other, cut into full rows; a conversation is not cut if it
            fits a row. Otherwise a document a row, padded, or several rows where it is longer. Not
            every architecture keeps packed documents apart; one that does not is refused.
        held_out: Rows at the end of the text that are not trained on but kept for evaluation.
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
