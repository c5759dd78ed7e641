"""A GGUF file as a checkpoint directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from boomerang.checkpoint.gguf import import_gguf
from boomerang.checkpoint.loading import load_model, load_tokenizer
from boomerang.errors import CheckpointError
from boomerang.hashing import content_hash
from gguf_files import TEMPLATE, write_llama


def test_the_checkpoint_is_the_model_that_was_written(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf")
    out = import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    loaded, tokenizer = load_model(out), load_tokenizer(out)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert loaded.dtype == torch.float32
    assert tokenizer.decode(tokenizer("the house").input_ids) == "the house"
    assert tokenizer.chat_template == TEMPLATE
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert not {"quantization_config", "transformers_version"} & config.keys()


def test_the_same_file_gives_the_same_identity(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    a, b = (import_gguf(tmp_path / "tiny.gguf", tmp_path / name) for name in "ab")
    assert content_hash(a) == content_hash(b)


def test_what_cannot_be_read_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, out = tmp_path / "broken.gguf", tmp_path / "out"
    broken.write_bytes(b"GGUF and no more")
    with pytest.raises(CheckpointError, match=r"broken\.gguf: cannot be read as GGUF"):
        import_gguf(broken, out)
    with pytest.raises(CheckpointError, match="not a file"):
        import_gguf(tmp_path / "none.gguf", out)
    monkeypatch.setattr("boomerang.checkpoint.gguf.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install gguf"):
        import_gguf(broken, out)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.gguf"]
