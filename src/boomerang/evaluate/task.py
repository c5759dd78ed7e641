"""What tasks ask of members, and what rows say of a member."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..layers import Member
from .layout import Request
from .results import Row

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from .store import Store

Answer = tuple[float, bool] | str
"""To a token request its log-likelihood in nats and whether the continuation is the most probable
one; to a prompt the generated text."""


@dataclass(frozen=True)
class TaskItems:
    """One task's items, the same for all members: first token requests, then prompts.

    Attributes:
        task: The task's name, which stands in the rows.
        content: A short hash of everything that an answer depends on, the member aside.
        settings: What is recorded with the task's name, as JSON values, to name what differs.
        requests: Contexts and continuations whose log-likelihood is wanted.
        documents: For each item its document; items of one document share their context.
        prompts: What to generate from, as the task knows it.
    """

    task: str
    content: str
    settings: Mapping[str, Any]
    requests: Sequence[Request]
    documents: Sequence[int]
    prompts: Sequence[Any] = field(default=(), repr=False)

    @property
    def indices(self) -> range:
        """The indices of all items."""
        return range(len(self.requests) + len(self.prompts))


@dataclass(frozen=True)
class MeasuredMember:
    """A member as rows name it: the fields are those of `Row`."""

    member: Member
    parameters: int
    bytes: int
    teacher: str
    student: str
    series: str

    def row(self, task: str, metric: str, value: float, stderr: float | None, *, items: int) -> Row:
        """A row of this member, of a value that rests on so many items."""
        return Row(
            member=self.member.patched,
            patch=self.member.patch,
            order=self.member.order,
            num_layers=self.member.num_layers,
            parameters=self.parameters,
            bytes=self.bytes,
            task=task,
            metric=metric,
            value=value,
            stderr=stderr,
            items=items,
            teacher=self.teacher,
            student=self.student,
            series=self.series,
        )


@dataclass(frozen=True)
class Reference:
    """The family with whose results another model is compared.

    Attributes:
        kept: The family's kept layers, by which its results are recognised.
        config: Its teacher's: text is cut into windows for these positions.
        tokenizer: Its teacher's. A model with another one, or with fewer positions, gets the text
            in windows of its own, and then only bits per byte can be compared.
    """

    kept: tuple[int, ...]
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase


class Task(Protocol):
    """Something to measure on: a text, or a task of lm-evaluation-harness."""

    @property
    def items(self) -> TaskItems:
        """What it asks."""

    @property
    def max_length(self) -> int:
        """The most tokens a model is fed."""

    def generate(
        self, member: Member, items: Sequence[int], advance: Callable[[int], None]
    ) -> list[str]:
        """The texts with which a member continues the prompts of some items."""

    def rows(self, store: Store, member: MeasuredMember, smaller: Member | None) -> list[Row]:
        """The rows of a member that has answered, compared with the member one size below."""


def short_hash(lines: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:16]
