"""What a model says after a prompt, where its positions end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from boomerang.checkpoint.loading import continuation, load_model
from boomerang.errors import BoomerangError, CheckpointError, DataError

PROMPT = "Once upon a time"


@pytest.fixture
def short(stories: Path) -> tuple[GPT2LMHeadModel, AutoTokenizer]:
    """A model with room for the prompt and three tokens more; it has learned its positions."""
    tokenizer = AutoTokenizer.from_pretrained(stories)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, eos_token_id=None,
        n_positions=len(tokenizer(PROMPT).input_ids) + 3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval(), tokenizer


def test_it_ends_with_the_positions(short: tuple[GPT2LMHeadModel, AutoTokenizer]) -> None:
    model, tokenizer = short
    seen: list[int] = []
    model.transformer.wpe.register_forward_pre_hook(
        lambda module, args: seen.append(int(args[0].max()))
    )
    continuation(model, tokenizer, PROMPT, max_new_tokens=80)
    # The last token is said and not read.
    assert max(seen) == model.config.n_positions - 2


def test_a_prompt_that_leaves_no_room_is_refused(
    short: tuple[GPT2LMHeadModel, AutoTokenizer],
) -> None:
    with pytest.raises(DataError, match="and the model takes"):
        continuation(*short, 2 * PROMPT, max_new_tokens=1)


def test_a_prompt_that_is_not_utf8_is_refused(
    short: tuple[GPT2LMHeadModel, AutoTokenizer],
) -> None:
    # What Python makes of the byte ff on the command line.
    with pytest.raises(DataError, match="the prompt is not UTF-8 text"):
        continuation(*short, "Once\udcff", max_new_tokens=1)


def test_a_chat_goes_through_the_template(short: tuple[GPT2LMHeadModel, AutoTokenizer]) -> None:
    model, tokenizer = short
    with pytest.raises(DataError, match="no chat template; leave out --chat"):
        continuation(model, tokenizer, "Once", max_new_tokens=1, chat=True)
    tokenizer.chat_template = "{{ messages[0]['content'] }} up"
    seen: list[list[int]] = []
    model.transformer.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][0].tolist())
    )
    answer = continuation(model, tokenizer, "Once", max_new_tokens=2, chat=True)
    assert seen[0] == tokenizer("Once up", add_special_tokens=False).input_ids
    assert answer == answer.strip()
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(DataError, match="does not take the prompt"):
        continuation(model, tokenizer, "Once", max_new_tokens=1, chat=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("eos_token_id", "x"), ("num_beams", "2"), ("top_k", [1])],
)
def test_settings_that_cannot_be_used_are_named(
    key: str, value: object, short: tuple[GPT2LMHeadModel, AutoTokenizer]
) -> None:
    model, tokenizer = short
    model.generation_config.do_sample = True
    setattr(model.generation_config, key, value)
    with pytest.raises(CheckpointError, match=r"generation_config\.json: generation fails"):
        continuation(model, tokenizer, "Once", max_new_tokens=2)


def test_more_layers_than_tensors_are_refused_before_any_is_made(
    stories: Path, tmp_path: Path
) -> None:
    shutil.copytree(stories, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    for depth, said in ((10**9, "layers; more than"), (9999, "says 9999 layers")):
        path.write_text(json.dumps(config | {"num_hidden_layers": depth}))
        with pytest.raises(BoomerangError, match=said):
            load_model(tmp_path / "model")
