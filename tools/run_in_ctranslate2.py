"""Run built members in CTranslate2 and compare with transformers: `make check-ctranslate2`.

Each member's directory goes through CTranslate2's own converter and runs in float32 on the CPU.
Prints a line per case and exits with 1 when one differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.converters import TransformersConverter
from numpy.typing import NDArray
from transformers import AutoTokenizer

from member_cases import Prompts, check


def run(
    directory: Path, prompts: Prompts, new_tokens: int
) -> tuple[list[list[int]], NDArray[np.float32]]:
    """Greedy tokens and the prompts' logits, from the converted directory."""
    converted = directory.with_name("ctranslate2")
    TransformersConverter(str(directory)).convert(str(converted))
    generator = ctranslate2.Generator(str(converted), device="cpu", compute_type="float32")
    # Generation takes words: the tokenizer is the directory's too.
    tokenizer = AutoTokenizer.from_pretrained(directory)
    results = generator.generate_batch(
        [tokenizer.convert_ids_to_tokens(prompt) for prompt in prompts],
        end_token=[],  # no early end, so that all tokens asked for are compared
        max_length=new_tokens,
        include_prompt_in_result=False,
    )
    logits = np.array(generator.forward_batch(prompts))
    return [result.sequences_ids[0] for result in results], logits


if __name__ == "__main__":
    sys.exit(check("ctranslate2", run))
