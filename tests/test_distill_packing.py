from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconH1Config,
    MambaConfig,
    OPTConfig,
)

import boomerang
from boomerang.checkpoint.loading import load_tokenizer
from boomerang.distill.packing import check_packing
from boomerang.errors import CheckpointError, RecipeError
from boomerang.text.pack import Document, Row, packed
from boomerang.text.rows import Rows, collate
from tiny_models import ARCHITECTURES, tiny_model

# Attention without a look at positions, a recurrent state alone and beside attention, which leaks
# less than bfloat16 rounds, and learned positions by attention mask.
LEAKING: dict[str, Any] = {
    "bloom": BloomConfig(vocab_size=512, hidden_size=32, n_layer=3, n_head=4),
    "mamba": MambaConfig(vocab_size=512, hidden_size=32, num_hidden_layers=3),
    "falcon_h1": FalconH1Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=64,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=16,
        mamba_n_groups=1,
        mamba_chunk_size=16,
    ),
    "opt": OPTConfig(
        vocab_size=512,
        hidden_size=32,
        ffn_dim=32,
        word_embed_proj_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_that_keep_documents_apart_are_taken(name: str, dtype: Any) -> None:
    model: Any = tiny_model(name)
    check_packing(model.to(dtype), batch_size=8)
    check_packing(model.to(dtype), batch_size=1)


class InMemory(Rows):
    """Rows as the packer makes them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    packed = True

    def row(self, index: int) -> Row:
        return self.rows[index]


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_packed_documents_have_the_logits_they_have_alone(name: str) -> None:
    """Through rows and batches as training has them; the padding at the end changes nothing."""
    model = tiny_model(name)
    generator = np.random.default_rng(0)
    documents = [generator.integers(3, 97, length).astype(np.int32) for length in (9, 4, 30, 2, 12)]
    given = [Document(tokens, np.ones(len(tokens), np.bool_)) for tokens in documents]
    rows = InMemory(list(packed(given, 20, 2)))
    batch = collate([rows[index] for index in range(len(rows.rows))])
    assert not batch["aligned"].all()
    inputs = {key: batch[key] for key in ("input_ids", "position_ids")}
    logits = model(**inputs, use_cache=False).logits
    for row, found in zip(rows.rows, logits, strict=True):
        places = [*np.flatnonzero(row.starts[: row.length]), row.length]
        for begin, end in pairwise(places):
            alone = torch.from_numpy(row.tokens[None, begin:end].astype(np.int64))
            expected = model(input_ids=alone, use_cache=False).logits[0]
            torch.testing.assert_close(found[begin:end], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEAKING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_that_see_across_documents_are_refused(name: str, dtype: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(LEAKING[name]).eval().to(dtype)
    with pytest.raises(RecipeError, match=r"data\.packing: .* set data\.packing: false"):
        check_packing(model, batch_size=8)


@torch.no_grad()
def test_weights_that_are_not_finite_are_named_as_such() -> None:
    model: Any = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"^teacher: gives logits that are not finite; check"):
        check_packing(model, batch_size=8)


def test_a_run_on_such_a_model_needs_packing_off(
    tmp_path: Path, stories: Path, stories_text: Path
) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    AutoModelForCausalLM.from_config(LEAKING["bloom"]).save_pretrained(teacher)
    load_tokenizer(stories).save_pretrained(teacher)
    (tmp_path / "text.txt").write_text(stories_text.read_text()[:4000])
    content: dict[str, Any] = {
        "teacher": str(teacher),
        "keep": [0, 2],
        "out": str(out),
        "data": {"files": [str(tmp_path / "text.txt")], "sequence_length": 64},
        "training": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
    }
    with pytest.raises(RecipeError, match=r"data\.packing"):
        boomerang.distill(boomerang.Recipe(**content))
    assert not out.exists()
    content["data"]["packing"] = False
    assert (boomerang.distill(boomerang.Recipe(**content)) / "config.json").exists()
