"""Small tasks of every kind for lm-evaluation-harness, over sentences of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

QUESTIONS = [
    ("Once upon a time, there was a little", [" girl", " stone of", " car and"], 0),
    ("Lily and Tom went to the", [" ran", " park to play", " very"], 1),
    ("The dog was very", [" the of", " happy", " eat"], 1),
    ('Tim said, "I am', [' sorry."', ' sky"', ' of"'], 0),
    ("She had a big red", [" ball", " run", " said"], 0),
    ("They lived happily ever", [" cat", " dog", " after"], 2),
]
STORIES = [
    "Once upon a time, there was a little boy named Tim. He had a red ball.",
    "Lily likes to play in the park. One day, she saw a big dog.",
    "The sun was bright. Tom and his mom went for a walk to see the birds in the tree. "
    "They were very happy and said thank you.",
    "Ben found a shiny stone.",
]

_CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "target_delimiter": "",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ],
}

KINDS: dict[str, dict[str, Any]] = {
    "choices": _CHOICES,
    "shots": {
        **_CHOICES,
        "num_fewshot": 2,
        "fewshot_split": "test",
        "fewshot_delimiter": ". ",
    },
    "sentences": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{choices[gold]}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{story}}",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity"},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte"},
        ],
    },
    "generating": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {
                "name": "first-word",
                "filter": [
                    {"function": "regex", "regex_pattern": "([a-z]+)"},
                    {"function": "take_first"},
                ],
            }
        ],
    },
}


def write_tasks(directory: Path, kinds: dict[str, dict[str, Any]] = KINDS) -> Path:
    """Write task files, and a group `both` of two of them where they are; the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    questions = [
        {"context": context, "choices": choices, "gold": gold}
        for context, choices, gold in QUESTIONS
    ]
    for name, docs in (("questions", questions), ("stories", [{"story": s} for s in STORIES])):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(d) + "\n" for d in docs))
    for name, config in kinds.items():
        data = "stories" if config["output_type"] == "loglikelihood_rolling" else "questions"
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(directory / f"{data}.jsonl")},
                "cache_dir": str(directory / ".cache"),
            },
            "test_split": "test",
            "metadata": {"version": 1.0},
            **config,
        }
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(whole))
    if {"choices", "shots"} <= kinds.keys():
        group = {
            "group": "both",
            "task": ["choices", "shots"],
            "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        }
        (directory / "both.yaml").write_text(yaml.safe_dump(group))
    return directory
