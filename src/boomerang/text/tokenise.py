"""Texts and conversations as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from .chat import tokenise_conversation
from .documents import Messages
from .pack import Document
from .streams import LONGEST

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Texts that go to the tokenizer together: it works on them in parallel.
_BATCH = 64


def tokenise(
    documents: Iterable[tuple[str, str | Messages]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    eos_is_no_target: bool = False,
) -> Iterator[Document]:
    """Tokens of documents, in their order.

    A text is tokenised as for evaluation (it may get a begin-of-sequence token), and its
    end-of-sequence token is added; all its tokens are targets. A conversation is what the chat
    template makes of it; what the assistant says is a target.

    Args:
        documents: Each with the place that errors name.
        tokenizer: The teacher's.
        eos_is_no_target: As in the reference, which masks every token that equals the padding
            token, its end-of-sequence token.

    Raises:
        DataError: A conversation does not fit the chat template.
    """
    for batch in _batches(documents):
        if isinstance(batch, list):
            yield from _texts(batch, tokenizer, eos_is_no_target)
            continue
        where, messages = batch
        conversation = tokenise_conversation(messages, tokenizer, where)
        if len(conversation.tokens):
            yield conversation


def _batches(
    documents: Iterable[tuple[str, str | Messages]],
) -> Iterator[list[str] | tuple[str, Messages]]:
    """Texts in batches, conversations one by one."""
    texts: list[str] = []
    characters = 0
    for where, document in documents:
        is_text = isinstance(document, str)
        if isinstance(document, str):
            texts.append(document)
            characters += len(document)
        if texts and (not is_text or len(texts) == _BATCH or characters >= LONGEST):
            yield texts
            texts, characters = [], 0
        if not isinstance(document, str):
            yield where, document
    if texts:
        yield texts


def _texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, eos_is_no_target: bool
) -> Iterator[Document]:
    eos = tokenizer.eos_token_id
    # verbose: no warning that a book is longer than the model's context; it gets cut.
    for ids in tokenizer(texts, verbose=False)["input_ids"]:
        if eos is not None and ids[-1:] != [eos]:
            ids.append(eos)
        if ids:
            tokens = np.asarray(ids, dtype=np.int32)
            targets = tokens != eos if eos_is_no_target else np.ones(len(tokens), np.bool_)
            yield Document(tokens, targets)
