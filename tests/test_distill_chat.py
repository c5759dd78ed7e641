"""Conversations: only what the assistant says is learned."""

from __future__ import annotations

import copy
import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

import boomerang
from boomerang.checkpoint.loading import load_tokenizer
from boomerang.distill.losses import IGNORED, shifted
from boomerang.distill.recipe import Data, Recipe
from boomerang.errors import BoomerangWarning, DataError
from boomerang.text import prepare
from boomerang.text.prepare import largest_token, load_rows, prepare_rows
from boomerang.text.rows import collate, count_tokens
from boomerang.text.tokenise import tokenise_conversation

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who ran?"},
    {"role": "assistant", "content": "The cat."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "It was late!"},
]

_TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
PLAIN = "{% for m in messages %}" + _TURN + "{% endfor %}" + _PROMPT
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}"
)
# The last turn has thoughts, which are empty; earlier ones have lost theirs.
THINKING = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<|im_start|>assistant\n<think></think>' + m.content + '<|im_end|>\n' }}"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _PROMPT
)
# What is no prompt ends with a token that is nowhere else.
CLOSED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
# No prompt for the assistant, and white space around what is said goes.
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ ' ' + m.content | trim + eos_token }}{% else %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
PROMPTS_MORE = PLAIN + "{% if add_generation_prompt %}{{ '<think>' }}{% endif %}"


@pytest.fixture(scope="module")
def plain_tokenizer(stories: Path) -> Any:
    return load_tokenizer(stories)


@pytest.fixture
def tokenizer(plain_tokenizer: Any) -> Any:
    made = copy.deepcopy(plain_tokenizer)
    names = ["im_start", "im_end", "system", "user", "assistant"]
    made.add_tokens([f"<|{name}|>" for name in names], special_tokens=True)
    return made


def learned(tokenizer: Any, template: str, messages: Any) -> list[str]:
    tokenizer.chat_template = template
    document = tokenise_conversation(messages, tokenizer, "here")
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert document.tokens.tolist() == whole
    spans = groupby(range(len(whole)), key=lambda place: bool(document.targets[place]))
    return [tokenizer.decode([whole[i] for i in span]) for is_target, span in spans if is_target]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (PLAIN, ["The cat.<|im_end|>", "It was late!<|im_end|>"]),
        (THINKING, ["The cat.<|im_end|>", "<think></think>It was late!<|im_end|>"]),
        (CLOSED, ["The cat.<|im_end|>", "It was late!<|im_end|></s>"]),
        (BRACKETS, ["The cat.</s>", "It was late!</s>"]),
    ],
    ids=["plain", "thinking", "closed", "brackets"],
)
def test_what_the_assistant_says_is_found_in_any_template(
    tokenizer: Any, template: str, said: list[str]
) -> None:
    assert [part.strip() for part in learned(tokenizer, template, TALK)] == said
    padded = [*TALK[:4], {"role": "assistant", "content": " It was late!\n"}]
    assert "It was late!" in learned(tokenizer, template, padded)[1]
    assert learned(tokenizer, template, TALK[:2]) == []


def test_marks_in_a_template_are_followed(tokenizer: Any) -> None:
    said = learned(tokenizer, MARKED, TALK)
    # The line break is marked, so it is learned: a template knows best.
    assert [part.replace(" ", "") for part in said] == [
        "Thecat.<|im_end|>\n",
        "Itwaslate!<|im_end|>\n",
    ]


def test_conversations_that_do_not_fit_are_named(tokenizer: Any, plain_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"^here: is a conversation, .* has no chat template"):
        tokenise_conversation(TALK, plain_tokenizer, "here")
    refusing = "{% for m in messages %}{{ raise_exception('no ' + m.role) }}{% endfor %}"
    for template, words in (
        (PROMPTS_MORE, r"here: what the assistant says in message 3 .*; give .* {% generation %}"),
        (refusing, r"here: the chat template cannot render it \(TemplateError: no system\)"),
        ("{% for", "here: the chat template cannot render it"),
    ):
        with pytest.raises(DataError, match=words) as error:
            learned(tokenizer, template, TALK)
        assert "\n" not in str(error.value)


def talks_in(path: Path, *talks: Any) -> Data:
    path.write_text("".join(json.dumps({"conversations": talk}) + "\n" for talk in talks))
    return Data(files=[str(path)], sequence_length=64)


def test_conversations_without_an_answer_are_refused_by_place_and_roles(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.chat_template = PLAIN
    talk = [{"from": "human", "value": "Who ran?"}, {"from": "robot", "value": "The cat."}]
    data = talks_in(tmp_path / "talks.jsonl", talk, talk, talk)
    words = r"talks\.jsonl, line 1: the first of 3 conversations .* roles found are robot, user; n"
    with pytest.raises(DataError, match=words):
        prepare_rows(data, tokenizer, tmp_path / "data", "one")
    assert not (tmp_path / "data").exists()
    # Nobody waits for the end of a large file, or of another source, to learn it.
    monkeypatch.setattr(prepare, "_PATIENCE", 2)
    with pytest.raises(DataError, match="the first of 2 conversations"):
        prepare_rows(data, tokenizer, tmp_path / "data", "one")
    # One answer is enough, and rows say how many tokens are learned.
    answered = [*talk[:1], {"from": "gpt", "value": "The cat."}]
    data = talks_in(tmp_path / "talks.jsonl", answered, talk)
    prepare_rows(data, tokenizer, tmp_path / "data", "two")
    rows, _ = load_rows(data, tmp_path / "data")
    record = json.loads((tmp_path / "data" / "data.json").read_text())
    assert record["targets"] == sum(int(rows.rows[i].targets.sum()) for i in range(len(rows))) > 0
    tokens = [rows.rows[i].tokens.max() for i in range(len(rows))]
    assert record["largest_token"] == largest_token(tmp_path / "data") == max(tokens)


def test_few_targets_are_a_warning(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = PLAIN
    asked = {"from": "human", "value": "Who ran? " * 200}
    data = talks_in(tmp_path / "talks.jsonl", [asked, {"from": "gpt", "value": "I."}])
    words = r"talks\.jsonl: only 0\.\d\d% of its tokens are learned"
    with pytest.warns(BoomerangWarning, match=words):
        prepare_rows(data, tokenizer, tmp_path / "data", "one")


@pytest.mark.parametrize("packing", [True, False])
def test_rows_learn_and_align_the_response_only(
    tokenizer: Any, tmp_path: Path, packing: bool
) -> None:
    tokenizer.chat_template = PLAIN
    path = tmp_path / "talks.jsonl"
    short = TALK[1:3]
    path.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in (TALK, short)))
    data = Data(files=[str(path)], sequence_length=128, packing=packing)
    prepare_rows(data, tokenizer, tmp_path / "data", "one")
    rows, _ = load_rows(data, tmp_path / "data")
    assert len(rows) == (1 if packing else 2)
    batch = collate([rows[i] for i in range(len(rows))])
    targets = batch["labels"] != IGNORED
    documents = [tokenise_conversation(talk, tokenizer, "") for talk in (TALK, short)]
    assert int(targets.sum()) == sum(int(d.targets.sum()) for d in documents)
    assert torch.equal(batch["labels"][targets], batch["input_ids"][targets])
    # Aligned where a target is predicted.
    assert torch.equal(batch["aligned"], shifted(batch["labels"]) != IGNORED)
    assert count_tokens(batch) == targets.sum()
    if packing:
        second = len(documents[0].tokens)
        assert batch["position_ids"][0, second] == 0
    else:
        lengths = [len(document.tokens) for document in documents]
        assert batch["attention_mask"].sum(1).tolist() == lengths


def test_a_student_is_distilled_on_texts_and_conversations(
    tmp_path: Path, stories: Path, stories_text: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(stories, teacher)
    (teacher / "chat_template.jinja").write_text(PLAIN)
    talks = tmp_path / "talks.jsonl"
    talks.write_text("".join(json.dumps({"messages": TALK}) + "\n" for _ in range(30)))
    sources = [{"files": [str(stories_text)], "weight": 2}, {"files": [str(talks)], "weight": 1}]
    recipe = Recipe.parse(
        {
            "teacher": str(teacher),
            "keep": [0, 2, 4],
            "out": str(tmp_path / "out"),
            "data": {"sources": sources, "sequence_length": 192, "held_out": 3},
            "training": {"max_steps": 2, "per_device_train_batch_size": 6, "logging_steps": 1,
                         "save_steps": 2, "use_cpu": True},
        }
    )  # fmt: skip
    out = boomerang.distill(recipe)
    record = json.loads((out / "data" / "data.json").read_text())
    texts, rows = (source["rows"] for source in record["sources"])
    assert texts == pytest.approx(2 * rows, abs=1)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)
