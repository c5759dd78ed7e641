"""What a task asks of every member: token requests, and prompts to go on from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .layout import Request

Answer = tuple[float, bool] | str
"""To a token request the log-likelihood in nats and whether the continuation is the most probable
one, to a prompt the text that was generated."""


@dataclass(frozen=True)
class Questions:
    """One task's questions, the same for all members.

    Items are numbered: first the token requests, then the prompts.

    Attributes:
        task: The task's name, which stands in the rows.
        content: A short hash of everything that an answer depends on, the member aside.
        settings: What is recorded with the task's name, as JSON values; tells people what differs.
        requests: Contexts and continuations whose log-likelihood is asked for.
        documents: For each item the document it belongs to; those of one share their context.
        prompts: What to generate from, as the task knows it.
    """

    task: str
    content: str
    settings: Mapping[str, Any]
    requests: Sequence[Request]
    documents: Sequence[int]
    prompts: Sequence[Any] = field(default=(), repr=False)

    @property
    def items(self) -> range:
        """The numbers of all items."""
        return range(len(self.requests) + len(self.prompts))


def short_hash(lines: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()[:16]
