"""What comes along with the weights, and what must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boomerang.card import licence
from boomerang.checkpoint.companions import copy_companions
from boomerang.checkpoint.weights import inside
from boomerang.errors import CheckpointError


def test_tokenizer_files_come_along_and_secrets_do_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    source.mkdir()
    wanted = {"tokenizer.json", "special_tokens_map.json", "vocab.json", "chat_template.jinja",
              "preprocessor_config.json", "tekken.json", "LICENSE"}  # fmt: skip
    for name in (*wanted, "token", "pytorch_model.bin", "modeling_own.py", "notes.md"):
        (source / name).write_text(name)
    copy_companions(source, target)
    assert {path.name for path in target.iterdir()} == wanted


def test_a_card_that_is_a_pipe_or_leads_out_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("---\nlicense: stolen\n---\n")
    for name in ("pipe", "link"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "README.md")
    (tmp_path / "link" / "README.md").symlink_to(tmp_path / "secret.md")
    assert licence(tmp_path / "pipe") == {}
    assert licence(tmp_path / "link") == {}


def test_a_linked_folder_of_blobs_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "weights").write_text("")
    snapshot = tmp_path / "cache" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "cache" / "blobs").symlink_to(tmp_path / "outside")
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    with pytest.raises(CheckpointError, match="link out of the checkpoint"):
        inside(snapshot, "model.safetensors")
