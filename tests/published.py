"""Look-alikes of published pairs at small width: the same files, names and quirks.

Teachers as the hub has them (half precision, sharded, buffers of older versions, configs of
transformers 4) and students as the authors published them (float32, `student_config.json` with two
keys, an output matrix stored beside a config that ties it), or GPT-2's files and a student of it
that says nothing about its layers.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel

from tiny_models import tiny_pair

Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]

PROMPT = "the sea was"


@dataclass(frozen=True)
class Pair:
    """What a published pair looks like.

    Args:
        architecture: The model type.
        num_layers: N of the look-alike.
        kept: The teacher layers its student keeps, by the published rule.
        order: The order to patch in by default.
        tied: Whether the config ties embedding and head.
        dtype: Of the teacher's weights.
        buffers: The buffers of a layer, by their names within it.
        says_layers: Whether the student has a `student_config.json`.
    """

    architecture: str
    num_layers: int
    kept: tuple[int, ...]
    order: str
    tied: bool
    dtype: torch.dtype
    buffers: Callable[[], Tensors]
    says_layers: bool = True


def _mask(name: str) -> Tensors:
    return {
        f"{name}.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril(),
        f"{name}.masked_bias": torch.tensor(-1e9),
    }


PAIRS = {
    "qwen3": Pair("qwen3", 8, (0, 2, 4, 6, 7), "last-to-first", True, torch.bfloat16, dict),
    "qwen3-untied": Pair(
        "qwen3", 8, (0, 2, 4, 6, 7), "last-to-first", False, torch.bfloat16, dict
    ),
    "gpt_neox": Pair(
        "gpt_neox", 8, (0, 2, 4, 6, 7), "last-to-first", False, torch.float16,
        lambda: _mask("attention") | {"attention.rotary_emb.inv_freq": torch.ones(1)},
    ),
    "llama": Pair(
        "llama", 8, (0, 1, 3, 5, 7), "first-to-last", True, torch.bfloat16,
        lambda: {"self_attn.rotary_emb.inv_freq": torch.ones(4)},
    ),
    "llama-untied": Pair(
        "llama", 8, (0, 1, 3, 5, 7), "first-to-last", False, torch.bfloat16, dict
    ),
    "gpt2": Pair(
        "gpt2", 12, (0, 2, 4, 7, 9, 11), "last-to-first", True, torch.float32,
        lambda: _mask("attn"), says_layers=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A student on the hub.

    Args:
        name: Its hub id.
        teacher: Its teacher's hub id, where we know it.
        like: The key in `PAIRS` of what it looks like.
    """

    name: str
    teacher: str | None
    like: str


# The teachers of the first five stand on the students' model cards, GPT-2's with the known pairs.
# Of Qwen3 only the sizes up to 4B, of Llama 3 only those up to 3B tie embedding and head.
PUBLISHED = (
    Published("Harvard-DCML/boomerang-qwen3-2.3B", "Qwen/Qwen3-4B-Base", "qwen3"),
    Published("Harvard-DCML/boomerang-qwen3-4.9B", "Qwen/Qwen3-8B-Base", "qwen3-untied"),
    Published("Harvard-DCML/boomerang-pythia-1.6B", "EleutherAI/pythia-2.8b", "gpt_neox"),
    Published("Harvard-DCML/boomerang-pythia-3.8B", "EleutherAI/pythia-6.9b", "gpt_neox"),
    Published("Harvard-DCML/boomerang-llama-3.2-1.9B", "meta-llama/Llama-3.2-3B", "llama"),
    Published("Harvard-DCML/ADAPT-Qwen3-2.3B-Base", None, "qwen3"),
    Published("Harvard-DCML/ADAPT-Qwen3-2.3B-Instruct", None, "qwen3"),
    Published("Harvard-DCML/ADAPT-Qwen3-8.5B", None, "qwen3-untied"),
    Published("Harvard-DCML/ADAPT-Qwen3-8.5B-Base", None, "qwen3-untied"),
    Published("Harvard-DCML/ADAPT-Llama3.1-4.8B-Instruct", None, "llama-untied"),
    Published("distilbert/distilgpt2", "openai-community/gpt2", "gpt2"),
)


def write_pair(directory: Path, name: str, style: str = "4.51") -> tuple[Path, Path]:
    """Write a look-alike; the directories of its teacher and its student.

    Args:
        directory: Where to.
        name: A key of `PAIRS`.
        style: Of the configs: `"4.51"` or `"5"`, the version of transformers they are like; GPT-2's
            are older than both.
    """
    pair = PAIRS[name]
    teacher, student, layers = tiny_pair(pair.architecture, pair.tied, pair.kept, pair.num_layers)
    paths = directory / "teacher", directory / "student"
    for path in paths:
        path.mkdir(parents=True)
        write_tokenizer(path)
    config, tensors = saved(teacher.to(pair.dtype))
    write_json(paths[0] / "config.json", in_style(config, style))
    tensors = with_buffers(tensors, pair)
    if name == "gpt2":
        # The names of GPT-2's own file lack the base model's, in one file with the student's.
        tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}
        save_file(tensors, paths[0] / "model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(paths[0], tensors)
    config, tensors = saved(student.float())
    write_json(paths[1] / "config.json", in_style(config, style))
    tensors = with_buffers(tensors, pair)
    if pair.says_layers:
        if pair.tied:
            table = tensors["model.embed_tokens.weight"]
            tensors["lm_head.weight"] = table + torch.linspace(0, 1, len(table))[:, None]
        write_shards(paths[1], tensors)
        kept, pruned = list(layers.kept), list(layers.pruned)
        content = {"pruned_teacher_layers": pruned, "copied_teacher_layers": kept}
        write_json(paths[1] / "student_config.json", content)
    else:
        # What copies all tensors of a live model stores a tied matrix twice.
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
        save_file(tensors, paths[1] / "model.safetensors", metadata={"format": "pt"})
    return paths


def saved(model: PreTrainedModel) -> tuple[Config, Tensors]:
    """The config and tensors of a model's checkpoint."""
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        config = json.loads((Path(directory) / "config.json").read_text())
        return config, load_file(Path(directory) / "model.safetensors")


def in_style(config: Config, style: str) -> Config:
    """A config as a version of transformers writes it."""
    kind = config["model_type"]
    if kind == "gpt2":
        return _old_gpt2(config)
    if kind == "llama":
        config["rope_parameters"] = {
            "rope_theta": 500000.0, "rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
        }  # fmt: skip
    if style == "5":
        return config
    rope = config.pop("rope_parameters")
    config.pop("layer_types", None)
    config |= {"torch_dtype": config.pop("dtype"), "transformers_version": "4.51.3"}
    theta = rope.pop("rope_theta")
    if kind == "gpt_neox":
        share = rope["partial_rotary_factor"]
        return config | {"rotary_emb_base": int(theta), "rotary_pct": share, "rope_scaling": None}
    return config | {
        "rope_theta": theta,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
    }


def _old_gpt2(config: Config) -> Config:
    """As GPT-2's own: no dtype, nothing about ties, and keys that no version reads any more."""
    keep = (
        "activation_function", "architectures", "attn_pdrop", "bos_token_id", "embd_pdrop",
        "eos_token_id", "initializer_range", "layer_norm_epsilon", "model_type", "n_embd", "n_head",
        "n_layer", "n_positions", "resid_pdrop", "summary_activation", "summary_type",
        "summary_use_proj", "vocab_size",
    )  # fmt: skip
    return {key: config[key] for key in keep} | {
        "n_ctx": config["n_positions"],
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    }


def with_buffers(tensors: Tensors, pair: Pair) -> Tensors:
    """Tensors and the buffers that older versions saved with every layer."""
    stack = next(key.partition(".0.")[0] for key in sorted(tensors) if ".0." in key)
    count = 1 + max(
        int(key.removeprefix(f"{stack}.").partition(".")[0])
        for key in tensors
        if key.startswith(f"{stack}.")
    )
    added = {
        f"{stack}.{i}.{rest}": value for i in range(count) for rest, value in pair.buffers().items()
    }
    return tensors | added


def write_shards(directory: Path, tensors: Tensors) -> None:
    """Write two files and their index."""
    names = sorted(tensors)
    half = len(names) // 2
    weight_map = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_json(
        directory / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map}
    )


def write_tokenizer(directory: Path) -> None:
    """Write a byte-level BPE tokenizer of 97 tokens."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<pad>", "<bos>", "<eos>", "\u0120", ".", *letters, "th", "the"]
    tokens += [f"<{i}>" for i in range(97 - len(tokens))]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    write_json(directory / "tokenizer_config.json", content)


def write_json(path: Path, content: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=2))
