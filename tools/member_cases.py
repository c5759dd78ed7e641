"""Built members for other tools to run, and what transformers makes of them.

A tool is checked on two architectures (llama, qwen3) and three members of each: tied; untied, of a
tied pair (its embedding is the student's and its output matrix the teacher's); untied, of an untied
pair. Every pair is small and random, but with the shapes that real checkpoints have: grouped keys
and values, a rotary base other than the default, heads that do not add up to the hidden size.
"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.utils.logging import disable_progress_bar

import boomerang

VOCABULARY = 512
LAYERS = boomerang.LayerMap((0, 1, 3, 5), 7)
PROMPTS, PROMPT_LENGTH, NEW_TOKENS = 4, 12, 24
# Far from an initialisation's, so that the logits depend on every tensor, norms included.
NOISE = 0.2
# Other kernels add in another order; a wrong rotary base or norm shows as 0.1 and more.
TOLERANCE = 1e-3

Prompts = list[list[int]]
# (directory of a member, prompts of one length, number of new tokens) -> (the greedy new tokens,
# the logits [prompt, position, vocabulary] of the prompts).
Run = Callable[[Path, Prompts, int], tuple[list[list[int]], NDArray[np.float32]]]


@dataclass(frozen=True)
class Case:
    """A pair to make and the member to build from it.

    Args:
        architecture: `llama` or `qwen3`.
        tied_pair: Whether teacher and student are tied.
        blocks: The student layers to patch.
        tied: Whether the member must be tied.
    """

    architecture: str
    tied_pair: bool
    blocks: tuple[int, ...]
    tied: bool

    def __str__(self) -> str:
        pair = "" if self.tied == self.tied_pair else ", of a tied pair"
        return f"{self.architecture}, {'tied' if self.tied else 'untied'}{pair}"


CASES = tuple(
    Case(architecture, tied_pair, blocks, tied)
    for architecture in ("llama", "qwen3")
    for tied_pair, blocks, tied in (
        (True, (1, 2), True),
        (True, (2, 3), False),
        (False, (2, 3), False),
    )
)


def check(tool: str, run: Run) -> int:
    """Build every case, run it with another tool, and print how the two compare.

    Args:
        tool: The other tool's package.
        run: The other tool.

    Returns:
        The exit code: 1 when a case differs or fails.
    """
    disable_progress_bar()
    print(", ".join(f"{name} {version(name)}" for name in (tool, "transformers", "torch")))
    print(f"{PROMPTS} prompts of {PROMPT_LENGTH} tokens, {NEW_TOKENS} greedy tokens each, float32")
    failed = False
    for case in CASES:
        with tempfile.TemporaryDirectory() as work:
            directory = build_case(case, Path(work))
            # A failure on one case must not hide what happens on the others.
            try:
                difference, largest = compare(directory, run)
            except Exception as error:
                traceback.print_exc()
                difference, largest = f"failed with {type(error).__name__}", float("inf")
        failed |= difference is not None
        print(f"{case!s:<29}  logits within {largest:<7.1e}  {difference or 'pass'}", flush=True)
    return int(failed)


def build_case(case: Case, work: Path) -> Path:
    """Make the pair of a case under `work` and build its member there.

    Raises:
        RuntimeError: The member is tied and should not be, or the other way round.
    """
    teacher, student = work / "teacher", work / "student"
    _random_model(_config(case), seed=0).save_pretrained(teacher)
    _tokenizer().save_pretrained(teacher)
    boomerang.init_student(teacher, student, LAYERS)
    config = AutoModelForCausalLM.from_pretrained(student).config
    _random_model(config, seed=1).save_pretrained(student)
    member = boomerang.build(teacher, student, work / "member", blocks=case.blocks)
    if json.loads((member / "config.json").read_text())["tie_word_embeddings"] != case.tied:
        raise RuntimeError(f"{case}: tie_word_embeddings is not {case.tied}")
    return member


def compare(directory: Path, run: Run) -> tuple[str | None, float]:
    """The first difference between transformers and another tool, and the largest of a logit."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (PROMPTS, PROMPT_LENGTH), generator=generator)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits.numpy()
        expected = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[:, PROMPT_LENGTH:].tolist()
    tokens, other = run(directory, ids.tolist(), NEW_TOKENS)
    largest = float(np.abs(other - logits).max())
    for row, (ours, theirs) in enumerate(zip(expected, tokens, strict=True)):
        for at, (wanted, got) in enumerate(zip_longest(ours, theirs)):
            if wanted != got:
                return f"prompt {row}, new token {at}: {got} instead of {wanted}", largest
    return (None if largest <= TOLERANCE else "logits differ"), largest


def _config(case: Case) -> PreTrainedConfig:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS.num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
        "tie_word_embeddings": case.tied_pair,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if case.architecture == "llama":
        return LlamaConfig(**shape)
    return Qwen3Config(**shape | {"num_attention_heads": 8, "head_dim": 16})


def _random_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = NOISE * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if parameter.ndim == 1 else noise)
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = special + [f"word{i}" for i in range(len(special), VOCABULARY)]
    vocabulary = {word: i for i, word in enumerate(words)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<unk>")),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
