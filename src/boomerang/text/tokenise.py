"""Texts and conversations as tokens, and which of the tokens are the assistant's.

The tokenizer's chat template turns messages into text. A template with `{% generation %}` marks
the assistant's words itself. For others, the text is compared with that of the conversation up to
each turn: what follows the prompt for the turn, up to its end, is said in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .data_section import LONGEST
from .documents import Messages
from .pack import Document

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
    """Tokens of documents, each given with the place that errors name, in their order.

    A text gets the tokenizer's own special tokens and an end-of-sequence token; all its tokens are
    targets. Of a conversation, what the assistant says is a target. `eos_is_no_target` is the
    reference's way: it masks the end-of-sequence token, which is its padding.

    Raises:
        DataError: A conversation does not fit the chat template.
    """
    texts: list[str] = []
    for where, document in documents:
        if isinstance(document, str):
            texts.append(document)
            if len(texts) < _BATCH and sum(map(len, texts)) < LONGEST:
                continue
        yield from _texts(texts, tokenizer, eos_is_no_target)
        texts = []
        if isinstance(document, list):
            conversation = tokenise_conversation(document, tokenizer, where)
            if len(conversation.tokens):
                yield conversation
    yield from _texts(texts, tokenizer, eos_is_no_target)


def _texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, eos_is_no_target: bool
) -> Iterator[Document]:
    if not texts:
        return
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

    The token that ends a turn is a target. White space that the template puts after it is not.

    Raises:
        DataError: The tokenizer has no chat template or no offsets, the template refuses the
            messages, or a turn cannot be found in what it renders.
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
        text, spans = _rendered(messages, tokenizer)
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


def _rendered(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[str, Sequence[Span]]:
    """The text, and which of its characters the assistant says."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.get_chat_template()
    marked = _MARKS.search(template) is not None
    options: dict[str, Any] = dict(tokenizer.special_tokens_map)
    # `apply_chat_template` marks all tokens to the end where a marked part ends in white space.
    rendered: Any = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=marked, **options
    )
    texts, spans = rendered
    return texts[0], spans[0] if marked else _spans(messages, texts[0], tokenizer)


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
    """Where a turn ends in `text`, which begins with it; `after` is the conversation up to its end.

    Some templates leave out the thoughts of all turns but the last, or put a token at the end of
    the whole. What is said, and the token that ends a turn, stay the same.
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
