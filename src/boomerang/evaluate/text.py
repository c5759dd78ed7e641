"""Text as a task: its questions, and the rows that the answers make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..text.windows import Text
from .perplexity import Scores
from .questions import Answer, Questions
from .results import BITS_PER_BYTE, DIFFERENCE, PERPLEXITY, Row
from .statistics import paired_difference
from .subject import Subject


def text_questions(name: str, text: Text, *, window: int, stride: int) -> Questions:
    """The windows of a text as questions.

    Args:
        name: The name of the task.
        text: What to score.
        window: As the text was cut, for the record.
        stride: The same.
    """
    return Questions(
        task=name,
        content=text.hash,
        settings={"text": text.hash, "window": window, "stride": stride},
        requests=[each.request for each in text.windows],
        documents=range(len(text.windows)),
    )


def text_rows(
    subject: Subject,
    questions: Questions,
    text: Text,
    answers: Sequence[Answer],
    smaller: Sequence[Answer] | None,
) -> list[Row]:
    """Perplexity and bits per byte, and the difference to the member one size below.

    Args:
        subject: The member.
        questions: The text's.
        text: The text.
        answers: The member's, one for each window.
        smaller: Those of the member one size below, if they are there.
    """
    scores = _scores(text, answers)
    values = [
        (PERPLEXITY, scores.perplexity.value, scores.perplexity.stderr),
        (BITS_PER_BYTE, scores.bits_per_byte.value, scores.bits_per_byte.stderr),
    ]
    if smaller is not None:
        difference = paired_difference(scores.perplexity, _scores(text, smaller).perplexity)
        values.append((DIFFERENCE, *difference))
    return [
        subject.row(questions.task, metric, value, stderr, items=len(answers))
        for metric, value, stderr in values
    ]


def _scores(text: Text, answers: Sequence[Answer]) -> Scores:
    return Scores.of(text, -np.array([float(answer[0]) for answer in answers]))
