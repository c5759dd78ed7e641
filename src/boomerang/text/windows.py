"""Text to measure on: documents as tokens, and the windows over those."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Window:
    """One call of a model: the token ids it sees, and those it is scored on.

    Target j is predicted at position `start + j`.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def start(self) -> int:
        """The first position whose prediction is scored; all later ones are scored too."""
        return len(self.inputs) - len(self.targets)

    @property
    def request(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The window as a context and the continuation that is scored."""
        return self.inputs[: self.start + 1], self.targets


@dataclass(frozen=True)
class Text:
    """Windows, in which every token of a text is a target exactly once, and its UTF-8 bytes."""

    windows: tuple[Window, ...]
    num_bytes: int

    @property
    def largest_token(self) -> int:
        """The largest token id in a window."""
        return max(max(*window.inputs, *window.targets) for window in self.windows)

    @property
    def hash(self) -> str:
        """A short hash of all windows: of text, tokenizer, window and stride."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(f"{window.inputs} {window.targets}\n".encode())
        return digest.hexdigest()[:16]


def prepare(
    documents: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    stride: int | None = None,
) -> Text:
    """Documents as windows of tokens, made once for all members; `window`, `stride`: `cut_windows`.

    Before each document stands the tokenizer's beginning-of-sequence token, or else its
    end-of-sequence token, as in lm-evaluation-harness. So the first token is scored too. Without
    either token it is not scored, but its bytes count.

    Raises:
        DataError: Window or stride out of range, or no document has a token to score.
    """
    prefix = tokenizer.bos_token_id
    if prefix is None:
        prefix = tokenizer.eos_token_id
    start = [] if prefix is None else [prefix]
    windows: list[Window] = []
    for document in documents:
        # verbose: no warning about documents longer than the model's context.
        tokens = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        windows.extend(cut_windows(start + list(tokens), window, stride))
    if not windows:
        raise DataError("the text has no token to score", fix="give a longer text")
    return Text(tuple(windows), sum(len(document.encode()) for document in documents))


def default_stride(window: int) -> int:
    """Half the window: each token has at least half a window of context, for twice the work."""
    return max(1, window // 2)


def cut_windows(tokens: Sequence[int], window: int, stride: int | None = None) -> list[Window]:
    """Strided windows over one document, in order; none for fewer than two tokens.

    The first window scores all it can. Each later window scores the next `stride` tokens with the
    longest context that fits. So every token but the first is scored exactly once.

    Args:
        tokens: Token ids of a document.
        window: The most positions a model sees at once, at least 1.
        stride: From 1 (the longest contexts) to `window` (the fewest calls); half the window by
            default.

    Raises:
        DataError: Window or stride out of range.
    """
    stride = default_stride(window) if stride is None else stride
    if not 1 <= stride <= window:
        raise DataError(
            f"a window of {window} with a stride of {stride}",
            fix="give a stride from 1 to the window",
        )
    windows = []
    scored, end = 1, min(window + 1, len(tokens))
    while scored < len(tokens):
        begin = max(0, end - 1 - window)
        windows.append(Window(tuple(tokens[begin : end - 1]), tuple(tokens[scored:end])))
        scored, end = end, min(end + stride, len(tokens))
    return windows
