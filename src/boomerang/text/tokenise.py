"""Texts and conversations as tokens, and which of the tokens are the assistant's.

The tokenizer's chat template turns messages into text. Templates with `{% generation %}` mark the
assistant's words themselves; few have it. For the others the text is compared with that of the
conversation's beginnings: what follows the prompt for a turn, up to where the turn ends, is said in
that turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .documents import Messages
from .pack import Document
from .sources import LONGEST

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

# Texts that go to the tokenizer together: it works on them in parallel.
_BATCH = 64
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TEMPLATE_FIX = "give the tokenizer a chat template with {% generation %} around each answer"


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


def tokenise_conversation(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, where: object
) -> Document:
    """A conversation whose targets are the tokens that the assistant says.

    The token that ends a turn is a target; white space that the template puts after it is none.

    Args:
        messages: As chat templates take them.
        tokenizer: With a chat template; it must know which characters a token stands for.
        where: The place that errors name.

    Raises:
        DataError: The tokenizer cannot do it, the template refuses these messages, or it renders a
            turn in a way that hides where it begins or ends.
    """
    if tokenizer.chat_template is None:
        raise DataError(
            "is a conversation, and the teacher's tokenizer has no chat template", where=where
        )
    if not tokenizer.is_fast:
        raise DataError(
            "is a conversation, and the teacher's tokenizer does not tell which characters a token "
            "stands for",
            where=where,
            fix="convert it to a tokenizer.json",
        )
    try:
        text, spans = _render_marked(messages, tokenizer)
        if spans is None:
            spans = _spans(messages, text, tokenizer)
    except DataError as error:
        raise DataError(error.what, where=where, fix=error.fix) from None
    except Exception as error:  # whatever a template, which is a program, makes of the messages
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"the chat template cannot render it ({type(error).__name__}: {reason})", where=where
        ) from error
    ids, characters = _encode(text, tokenizer)
    first = np.array([begin for begin, _ in characters], dtype=np.int64)
    targets = np.zeros(len(first), np.bool_)
    for begin, end in spans:
        targets |= (begin <= first) & (first < end)
    return Document(np.asarray(ids, np.int32), targets, response_only=True)


def _render_marked(
    messages: Messages, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, Sequence[Span] | None]:
    """The text, and what its template marks, in characters; None if it has no marks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.get_chat_template()
    marked = _MARKS.search(template) is not None
    options: dict[str, Any] = dict(tokenizer.special_tokens_map)
    # `apply_chat_template` gives marks as tokens, all to the end where one ends in white space.
    rendered: Any = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=marked, **options
    )
    texts, spans = rendered
    return texts[0], spans[0] if marked else None


def _spans(messages: Messages, text: str, tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    def render(count: int, prompt: bool) -> str:
        options: Any = {"tokenize": False, "add_generation_prompt": prompt}
        return str(tokenizer.apply_chat_template(messages[:count], **options)) if count else ""

    spans: list[Span] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(index, prompt=True), render(index + 1, prompt=False)
        begin = len(before)
        if text.startswith(after):
            end: int | None = len(after)
        else:
            end = _end_elsewhere(text[begin:], after, message.get("content"), tokenizer)
            end = None if end is None else begin + end
        if not text.startswith(before) or end is None:
            raise DataError(
                f"what the assistant says in message {index + 1} cannot be found in what the chat "
                "template renders",
                fix=_TEMPLATE_FIX,
            )
        spans.append((begin, begin + len(text[begin:end].rstrip())))
    return spans


def _end_elsewhere(
    text: str, after: str, content: object, tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """Where a turn ends that its template renders in another way when it is the last one.

    Templates of reasoning models leave out the thoughts, even empty ones, of all turns but the
    last, and some put a token at the end of the whole; what is said, and the token that ends a
    turn, stay the same.

    Args:
        text: The conversation from the turn on.
        after: The conversation up to the turn.
        content: What is said.
        tokenizer: Says where tokens end.
    """
    said = content.strip() if isinstance(content, str) else ""
    at = after.rfind(said)
    if not said or at < 0:
        return None
    (here, ends), (there, _) = (_encode(t, tokenizer) for t in (text, after[at:]))
    same = 0
    while same < min(len(here), len(there)) and here[same] == there[same]:
        same += 1
    end = ends[same - 1][1] if same else 0
    return end if end >= len(said) else None


def _encode(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[Span]]:
    """Token ids, and the characters that each stands for."""
    encoded: Any = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return encoded["input_ids"], encoded["offset_mapping"]
