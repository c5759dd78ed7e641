"""Scores of text by the plainest computation: one model, one window at a time."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from boomerang.evaluate.perplexity import Scores
from boomerang.text.windows import Text


@torch.no_grad()
def plain_scores(model: PreTrainedModel, text: Text) -> Scores:
    """How well a model predicts a text."""
    nll = []
    for window in text.windows:
        logits = model.eval()(input_ids=torch.tensor([window.inputs])).logits[0]
        log_probs = logits.float().log_softmax(-1)[-len(window.targets) :]
        nll.append(-log_probs.gather(1, torch.tensor(window.targets)[:, None]).double().sum())
    return Scores.of(text, torch.stack(nll).numpy())
