"""Sizes: the paper's figures from configs alone, the files' own from headers, caches by kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import boomerang
from boomerang import LayerMap
from boomerang.build import choose_member
from boomerang.checkpoint.sources import Source, Sources
from boomerang.errors import ArchitectureError, BoomerangError, LayerMapError
from boomerang.models.config import num_layers
from boomerang.models.kv_cache import layer_caches
from boomerang.sizing import _EXPERTS as EXPERTS
from boomerang.sizing import (
    OVERHEAD,
    Size,
    _active,
    choose,
    default_context,
    member_sizes,
)
from boomerang.units import parse_bytes, parse_count, show_bytes, show_count, show_count_briefly
from disk import save_pair
from tiny_models import tiny_config, tiny_model

# Stored parameters of teacher and student, in billions (arXiv 2510.05064, section 4.1), and the
# student's with its tied output matrix counted apart.
PAPER = {
    "Qwen3-4B-Base": (1, 2, 19, 4.022, 2.307, 2.696),
    "Qwen3-8B-Base": (1, 2, 19, 8.191, 4.911, 4.911),
    "pythia-2.8b": (1, 2, 17, 2.775, 1.595, 1.595),
    "pythia-6.9b": (1, 2, 17, 6.857, 3.837, 3.837),
    "Llama-3.2-3B": (2, 1, 15, 3.213, 1.904, 2.298),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_sizes_from_configs_alone(name: str, configs: Path) -> None:
    first, last, depth, teacher, student, apart = PAPER[name]
    source = Source.open(configs / f"{name}.json", weights=False)
    checkpoint = source.checkpoint
    count = checkpoint.config["num_hidden_layers"]
    layers = LayerMap.every(2, num_layers=count, first=first, last=last)
    rows = member_sizes(Sources.uncut(source, layers), layers.members(), dtype="bfloat16")
    assert rows[0].member.num_layers == depth
    assert round(rows[0].parameters / 1e9, 3) == student
    assert round(rows[-1].parameters / 1e9, 3) == teacher
    assert all(row.bytes == 2 * row.parameters == 2 * (row.active_parameters or 0) for row in rows)
    width, vocabulary = checkpoint.config["hidden_size"], checkpoint.config["vocab_size"]
    matrices = 1 if checkpoint.config.get("tie_word_embeddings") else 2
    for row in (rows[0], rows[-1]):
        assert row.parameters - row.parameters_without_embeddings == matrices * width * vocabulary
    # Between them a tied family has two matrices: a trained student's differs from the teacher's.
    step = rows[2].parameters - rows[1].parameters
    extra = rows[1].parameters - rows[0].parameters - step
    assert round((rows[0].parameters + extra) / 1e9, 3) == apart


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3_moe", "gemma3_text"])
def test_sizes_are_those_of_the_built_files(name: str, tmp_path: Path) -> None:
    family = Sources.open(*save_pair(tmp_path, name, tied=True))
    for row in member_sizes(family, family.members(), dtype="bfloat16"):
        out = tmp_path / str(row.member.patch)
        boomerang.build(*family.directories, out, patch=row.member.patch, dtype="bfloat16")
        tensors = load_file(out / "model.safetensors")
        assert row.parameters == sum(tensor.numel() for tensor in tensors.values())
        assert row.bytes == sum(tensor.nbytes for tensor in tensors.values())
        tables = [
            t for n, t in tensors.items() if any(w in n for w in ("wte", "wpe", "embed", "head"))
        ]
        assert row.parameters - row.parameters_without_embeddings == sum(t.numel() for t in tables)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen3_moe", "gemma3_text", "qwen2"])
def test_a_config_alone_counts_as_the_weights_do(name: str, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, name, tied=True)
    family = Sources.open(teacher, student)
    config = Source.open(teacher / "config.json", weights=False)
    imagined = Sources.uncut(config, family.layers)
    for real, counted in zip(
        member_sizes(family, family.members()),
        member_sizes(imagined, family.members()),
        strict=True,
    ):
        assert real == counted


def test_active_parameters_of_experts() -> None:
    config = tiny_config("qwen3_moe", 4)
    model = tiny_model("qwen3_moe", 4)
    total = sum(p.numel() for p in model.parameters())
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    idle = 3 * (config.num_experts - config.num_experts_per_tok) * expert
    row = sizes_of(config.to_dict())[-1]
    assert row.parameters == total
    assert row.active_parameters == total - idle


@pytest.mark.parametrize("chosen", [0, -1, 5, True, None])
def test_active_parameters_are_not_made_up(chosen: Any, tmp_path: Path) -> None:
    teacher, student = save_pair(tmp_path, "qwen3_moe")
    for directory in (teacher, student):
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_experts_per_tok": chosen}))
    family = Sources.open(teacher, student)
    rows = member_sizes(family, family.members())
    assert {row.active_parameters for row in rows} == {None}


# Experts stacked in tensors of three dimensions, and by their rows in matrices.
STACKED = {
    "model_type": "granitemoe", "num_hidden_layers": 4, "num_local_experts": 4,
    "num_experts_per_tok": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 32,
}  # fmt: skip
BY_ROWS = {
    "model_type": "dbrx", "n_layers": 4, "d_model": 16, "n_heads": 2, "vocab_size": 32,
    "attn_config": {"kv_n_heads": 1, "rope_theta": 1e4},
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 1},
}  # fmt: skip


@pytest.mark.parametrize("config", [STACKED, BY_ROWS], ids=["stacked", "by rows"])
def test_experts_are_found_however_they_are_kept(config: dict[str, Any]) -> None:
    row = sizes_of(config)[-1]
    assert row.parameters - (row.active_parameters or 0) == 4 * 3 * (3 * 16 * 24)


def test_experts_that_no_key_counts_are_not_taken_for_none(tmp_path: Path) -> None:
    files = Sources.open(*save_pair(tmp_path, "qwen3_moe")).files
    plan, config = files.of(files.layers.member(1)), files.teacher.config
    assert _active(plan, config, 10**6) is not None
    for keys in (EXPERTS, ["num_experts_per_tok"]):
        assert _active(plan, config | dict.fromkeys(keys), 10**6) is None
    assert _active(plan, config | {"n_routed_experts": 3}, 10**6) is None, "and another key's"
    assert _active(plan, config | {"zero_expert_num": 2}, 10**6) is None
    chosen = config["num_experts_per_tok"]
    listed = config | {"num_experts_per_tok": [chosen] * 7}
    assert _active(plan, listed, 10**6) == _active(plan, config, 10**6)
    assert _active(plan, config | {"num_experts_per_tok": [1, 2]}, 10**6) is None


def sizes_of(config: dict[str, Any], **kwargs: Any) -> list[Size]:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as directory:
        path = Path(directory) / "config.json"
        path.write_text(json.dumps(config))
        source = Source.open(path, weights=False)
        layers = LayerMap.every(2, num_layers=num_layers(source.config))
        return member_sizes(Sources.uncut(source, layers), layers.members(), **kwargs)


# The cache


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
}
CACHES: dict[str, tuple[dict[str, Any], list[tuple[int, int | None]]]] = {
    "every head": ({}, [(128, None)] * 4),
    "grouped": ({"num_key_value_heads": 2}, [(32, None)] * 4),
    "head_dim": ({"num_key_value_heads": 2, "head_dim": 16}, [(64, None)] * 4),
    "values of another width": (
        {"num_key_value_heads": 2, "head_dim": 16, "v_head_dim": 8},
        [(48, None)] * 4,
    ),
    "one head for all": ({"multi_query": True}, [(16, None)] * 4),
    "falcon, grouped": (
        {"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 4},
        [(64, None)] * 4,
    ),
    "mpt": ({"attn_config": {"kv_n_heads": 2}}, [(32, None)] * 4),
    "latent": ({"kv_lora_rank": 32, "qk_rope_head_dim": 8, "v_head_dim": 8}, [(40, None)] * 4),
    "window on all": ({"sliding_window": 16}, [(128, 16)] * 4),
    "window switched off": ({"sliding_window": 16, "use_sliding_window": False}, [(128, None)] * 4),
    "window on some": (
        {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
        [(128, 16), (128, None)] * 2,
    ),
    "chunks": (
        {"attention_chunk_size": 8, "layer_types": ["chunked_attention"] * 3 + ["full_attention"]},
        [(128, 8)] * 3 + [(128, None)],
    ),
    "heads by layer in a list": (
        {"num_kv_heads": [1, 2, 4, 8]},
        [
            (16, None),
            (32, None),
            (64, None),
            (128, None),
        ],
    ),
    "two names of a head's width": (
        {"num_key_value_heads": 2, "head_dim": 16, "attention_head_dim": 16},
        [(64, None)] * 4,
    ),
    "kv_channels": ({"kv_channels": 16}, [(256, None)] * 4),
    "window on both sides": (
        {"local_attention": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
        [(128, 8), (128, None)] * 2,
    ),
    "heads by layer": (
        {"num_key_value_heads_per_layer": [1, 2, 4, 8]},
        [(16, None), (32, None), (64, None), (128, None)],
    ),
}


@pytest.mark.parametrize("kind", CACHES)
def test_what_the_cache_keeps(kind: str) -> None:
    changes, expected = CACHES[kind]
    assert [(c.elements, c.window) for c in layer_caches(LLAMA | changes)] == expected


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4},
        {"model_type": "bloom", "n_layer": 2, "n_embed": 32, "num_attention_heads": 4},
        {"model_type": "xglm", "num_layers": 2, "d_model": 32, "attention_heads": 4},
    ],
)
def test_dimensions_have_names_of_their_own(config: dict[str, Any]) -> None:
    assert [c.elements for c in layer_caches(config)] == [64, 64]


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["linear_attention", "full_attention"] * 2},
        {"mamba_d_state": 16},
        {"index_head_dim": 64},
        {"num_attention_heads": None},
        {"num_key_value_heads": 0},
        {"num_key_value_heads": [1, 2]},
        {"kv_lora_rank": 32},
    ],
)
def test_an_unknown_cache_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError):
        layer_caches(LLAMA | changes)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "gemma3_text", "mistral", "phi3"])
def test_the_cache_is_what_transformers_keeps(name: str) -> None:
    import torch

    model = tiny_model(name, 4)
    length = 30
    with torch.no_grad():
        cache = model(torch.arange(length)[None], use_cache=True).past_key_values
    caches = layer_caches(model.config.to_dict())
    for layer, expected in zip(cache.layers, caches, strict=True):
        kept = layer.keys[0].numel() + layer.values[0].numel()
        # Of a full window transformers keeps one token less: the next one takes its place.
        short = expected.window is not None and expected.window <= length
        assert kept == expected.elements * (min(length, expected.window or length) - short)


def test_memory_is_weights_cache_and_overhead() -> None:
    config = tiny_config("gemma3_text", 6).to_dict()
    for row in sizes_of(config, dtype="float16", context=50, batch=3):
        elements = 2 * 2 * 8
        kinds = [config["layer_types"][i] for i in row.member.teacher_layers]
        tokens = sum(8 if kind == "sliding_attention" else 50 for kind in kinds)
        assert row.kv_bytes_per_token == 2 * elements * len(kinds)
        assert row.kv_bytes == 2 * elements * 3 * tokens
        assert row.memory == row.bytes + row.kv_bytes + int(OVERHEAD * row.bytes)


def test_the_cache_of_a_layer_is_read_once_however_many_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from boomerang.models import kv_cache

    read: list[int] = []
    plain = kv_cache._layer_cache

    def counted(text: dict[str, Any], index: int, count: int) -> kv_cache.LayerCache:
        read.append(index)
        return plain(text, index, count)

    monkeypatch.setattr(kv_cache, "_layer_cache", counted)
    rows = sizes_of(tiny_config("llama", 12).to_dict())
    assert len(rows) > 5 and read == list(range(12))


def test_the_default_context_is_at_most_the_models() -> None:
    assert default_context({**LLAMA, "max_position_embeddings": 2048}) == 2048
    assert default_context({**LLAMA, "max_position_embeddings": 131072}) == 8192
    assert default_context(LLAMA) == 8192
    assert default_context({**LLAMA, "max_position_embeddings": None, "n_positions": 512}) == 512


@pytest.mark.parametrize("key", ["context", "batch"])
def test_nothing_of_anything_is_refused(key: str, tmp_path: Path) -> None:
    family = Sources.open(*save_pair(tmp_path, "llama"))
    with pytest.raises(BoomerangError, match=key):
        member_sizes(family, family.members(), **{key: 0})


# The choice


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources.open(*save_pair(tmp_path_factory.mktemp("family"), "llama", tied=True))


def test_the_largest_that_fits_is_chosen(family: Sources) -> None:
    rows = member_sizes(family, family.members(), context=20)
    for i, row in enumerate(rows):
        for limit, need in (
            ("num_layers", row.member.num_layers),
            ("params", row.parameters),
            ("memory", row.memory),
        ):
            assert choose(rows, **{limit: need})[0] == row
            if i:
                assert choose(rows, **{limit: need - 1})[0] == rows[i - 1]
            else:
                with pytest.raises(LayerMapError, match="smallest member"):
                    choose(rows, **{limit: need - 1})
        assert choose_member(family, memory=row.memory, context=20)[0] == row.member


def test_context_batch_and_dtype_count_for_memory(family: Sources) -> None:
    memory = member_sizes(family, family.members(), context=20)[-1].memory
    assert memory is not None
    whole = choose_member(family, memory=memory, context=20)[0]
    assert whole.num_layers == family.layers.num_layers
    assert choose_member(family, memory=memory, context=40)[0] != whole
    assert choose_member(family, memory=memory, context=20, batch=2)[0] != whole
    assert choose_member(family, memory=memory // 2 + 1, context=20, dtype="float16")[0] == whole


def test_the_choice_is_explained_in_one_line(family: Sources) -> None:
    rows = member_sizes(family, family.members())
    _, line = choose(rows, num_layers=6)
    assert "patch 2 of 3" in line and "6 of 7 layers" in line and "\n" not in line
    with pytest.raises(LayerMapError, match=r"4 layers.* needs \d"):
        choose(rows, memory=10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8GiB", 8 * 2**30),
        ("8gb", 8 * 10**9),
        ("1.5MB", 1_500_000),
        ("12", 12),
        (12, 12),
        ("2e3", 2000),
    ],
)
def test_sizes_in_bytes(text: str | int, value: int) -> None:
    assert parse_bytes(text, "memory") == value


@pytest.mark.parametrize(
    ("text", "value"), [("3.2B", 3_200_000_000), ("350M", 350_000_000), (3.2e9, 3_200_000_000)]
)
def test_counts_of_parameters(text: str | float, value: int) -> None:
    assert parse_count(text, "params") == value


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1GB", "8 PB", "nan", "inf", "1e999", "8GiBs", "0", "0.1"]
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(BoomerangError, match="memory"):
        parse_bytes(text, "memory")
    with pytest.raises(BoomerangError, match="params"):
        parse_count(f"{text}B" if text in ("nan", "") else text, "params")


def test_sizes_for_people() -> None:
    assert [show_bytes(n) for n in (5, 2048, 3 * 2**20, 2**31)] == [
        "5 B",
        "2.00 KiB",
        "3.00 MiB",
        "2.00 GiB",
    ]
    assert [show_count(n) for n in (5, 1500, 2_307_000_000)] == ["5", "1.500K", "2.307B"]
    counts = (999, 1500, 448_848, 999_600, 13_015_864_320, 1_500_000_000_000)
    brief = ["999", "1.50K", "449K", "1.00M", "13.0B", "1500B"]
    assert [show_count_briefly(n) for n in counts] == brief
