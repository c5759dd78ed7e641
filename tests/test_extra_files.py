"""What comes along with the weights, and what must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boomerang.checkpoint.card import licence
from boomerang.checkpoint.extra_files import copy_extra_files, find_extra_files
from boomerang.checkpoint.weights import inside
from boomerang.errors import CheckpointError


def test_tokenizer_files_come_along_and_secrets_do_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    source.mkdir()
    wanted = {"tokenizer.json", "special_tokens_map.json", "vocab.json", "chat_template.jinja",
              "preprocessor_config.json", "vocab.bpe", "qwen.tiktoken", "NOTICE",
              "tekken.json", "LICENSE"}  # fmt: skip
    for name in (*wanted, "token", "pytorch_model.bin", "modeling_own.py", "notes.md"):
        (source / name).write_text(name)
    copy_extra_files(find_extra_files(source), target)
    assert {path.name for path in target.iterdir()} == wanted


def test_chat_templates_besides_the_default_come_along(tmp_path: Path) -> None:
    """From a plain directory and from a snapshot in the hub's cache, whose files are links."""
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    for source in (tmp_path / "plain", snapshot):
        folder = source / "additional_chat_templates"
        (folder / "deeper.jinja").mkdir(parents=True)
        (folder / "tool_use.jinja").write_text("{{ tools }}")
        (folder / "notes.md").write_text("no template")
    (repository / "blobs").mkdir()
    (snapshot / "additional_chat_templates" / "tool_use.jinja").rename(repository / "blobs" / "1")
    (snapshot / "additional_chat_templates" / "tool_use.jinja").symlink_to("../../../blobs/1")
    for number, source in enumerate((tmp_path / "plain", snapshot)):
        target = tmp_path / str(number)
        target.mkdir()
        copy_extra_files(find_extra_files(source), target)
        files = [path for path in target.rglob("*") if not path.is_dir()]
        assert files == [target / "additional_chat_templates" / "tool_use.jinja"]
        assert not files[0].is_symlink() and files[0].read_text() == "{{ tools }}"


def test_a_linked_folder_of_templates_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jinja").write_text("")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "additional_chat_templates").symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="link out of the checkpoint"):
        find_extra_files(tmp_path / "source")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_broken_config_does_not_come_along(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("[1]")
    with pytest.raises(CheckpointError, match=f"{name}: is no JSON object"):
        find_extra_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("generation_config.json", '{"temperature": "hot"}', "temperature is 'hot'"),
        ("generation_config.json", '{"eos_token_id": ["x"]}', r"eos_token_id is \['x'\]"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "model_max_length is 'x'"),
    ],
)
def test_a_word_in_the_place_of_a_number_does_not_come_along(
    name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name}: {message}, which is no number"):
        find_extra_files(tmp_path)


def test_files_that_are_there_already_are_kept(tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "generation_config.json").write_text(f'{{"from": "{name}"}}')
    copy_extra_files(find_extra_files(tmp_path / "source"), tmp_path / "target")
    assert "target" in (tmp_path / "target" / "generation_config.json").read_text()


def test_a_card_that_is_a_pipe_or_leads_out_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("---\nlicense: stolen\n---\n")
    for name in ("pipe", "link"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "README.md")
    (tmp_path / "link" / "README.md").symlink_to(tmp_path / "secret.md")
    assert licence(tmp_path / "pipe") == {}
    assert licence(tmp_path / "link") == {}


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("license: mit", {"license": "mit"}),
        ('license: "\\u00e9"', {"license": "é"}),
        ("license: !!bool mit\nlicense_name: x", {"license_name": "x"}),
        ('license: "\\Uffffffff"', {}),
        ("license: null", {}),
        # Merges that would multiply to billions of entries, were they carried out.
        (
            "a: &a0 {k: v}\n"
            + "".join(f"b{i}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(9))
            + "license: mit",
            {"license": "mit"},
        ),
    ],
    ids=["plain", "escape", "wrong tag", "no character", "null", "merges"],
)
def test_a_card_is_read_for_text_alone(
    front: str, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n")
    assert licence(tmp_path) == expected


def test_a_linked_folder_of_blobs_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "weights").write_text("")
    snapshot = tmp_path / "cache" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "cache" / "blobs").symlink_to(tmp_path / "outside")
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    with pytest.raises(CheckpointError, match="link out of the checkpoint"):
        inside(snapshot, "model.safetensors")
