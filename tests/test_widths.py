"""A checkpoint and its own config: what contradicts is refused, what does not is left alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import boomerang
from boomerang.checkpoint.consistency import check_complete, check_numbers, check_widths
from boomerang.checkpoint.directory import Checkpoint, layout_of
from boomerang.checkpoint.header import Tensor
from boomerang.checkpoint.member_plan import Pair
from boomerang.errors import BoomerangError, CheckpointError
from boomerang.layers import LayerMap
from boomerang.models.widths import layer_view, read_widths
from disk import save_pair
from tiny_models import ARCHITECTURES

Shapes = dict[str, tuple[int, ...]]
Both = tuple[Checkpoint, Checkpoint]

LAYERS = LayerMap((0, 1, 3, 5), 7)


# Teacher and student with the same defect: nothing shows between them


@cache
def opened(name: str) -> Both:
    with TemporaryDirectory() as directory:
        teacher, student = save_pair(Path(directory), name)
        return Checkpoint.open(teacher, expand=True), Checkpoint.open(student)


def with_config(both: Both, key: str, value: Any) -> Both:
    def change(one: Checkpoint) -> Checkpoint:
        config = {k: v for k, v in (one.config | {key: value}).items() if v is not ...}
        return replace(one, config=config)

    return change(both[0]), change(both[1])


def without(both: Both, name: str) -> Both:
    def drop(one: Checkpoint) -> Checkpoint:
        kept = {n: tensor for n, tensor in one.tensors.items() if in_any_layer(n) != name}
        return replace(one, tensors=kept, layout=layout_of(one.config, kept, "x"))

    return drop(both[0]), drop(both[1])


def in_any_layer(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def is_refused(make: Callable[..., Both], *args: Any) -> bool:
    try:
        Pair(*make(*args), LAYERS)
    except BoomerangError:
        return True
    return False


WIDTHS = (
    "vocab_size", "hidden_size", "n_embd", "n_positions", "intermediate_size",
    "moe_intermediate_size", "num_experts", "num_local_experts", "num_attention_heads", "n_head",
    "num_key_value_heads", "head_dim",
)  # fmt: skip
CHANGES: dict[str, Callable[[int], Any]] = {
    "one more": lambda n: n + 1,
    "one less": lambda n: n - 1,
    "doubled": lambda n: 2 * n,
    "missing": lambda n: ...,
    "null": lambda n: None,
    "float": float,
    "string": str,
    "true": lambda n: True,
    "list": lambda n: [n],
    "huge": lambda n: 10**30,
}
# Here the tensors are what the changed config says. Without head_dim it is the hidden size by the
# number of heads, in all classes but some; as many more heads, each as much smaller, are as wide.
AS_BEFORE = {
    "llama": {("head_dim", "missing"), ("head_dim", "null")},
    "qwen3": {("head_dim", "missing"), ("head_dim", "null")},
    "mistral": {("head_dim", "missing"), ("head_dim", "null")},
    "gemma3_text": {("head_dim", "missing"), ("head_dim", "null")},
    "gpt_neox": {("num_attention_heads", "doubled")},
    "gpt2": {("n_head", "doubled")},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_config_that_lies_about_a_width_is_refused(name: str) -> None:
    both = opened(name)
    assert not is_refused(lambda: both)
    unseen = {
        (key, change)
        for key in WIDTHS
        for change, make in CHANGES.items()
        if isinstance(value := both[0].config.get(key), int)
        if not is_refused(with_config, both, key, make(value))
    }
    assert unseen == AS_BEFORE.get(name, set())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_tensor_that_every_layer_lacks_is_missed(name: str) -> None:
    both = opened(name)
    names = {in_any_layer(tensor) for tensor in both[0].tensors}
    assert {n for n in names if not is_refused(without, both, n)} == set()


def test_an_expert_that_every_layer_lacks_is_missed() -> None:
    both = opened("qwen3_moe")
    for one in both:
        kept = {name: t for name, t in one.tensors.items() if ".experts.3." not in name}
        with pytest.raises(CheckpointError, match=r"'model.layers.0.mlp.experts' is 3.*4"):
            check_widths(replace(one, tensors=kept, layout=layout_of(one.config, kept, "x")))


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("llama", "hidden_size", 33, "'model.layers.0.input_layernorm.weight' is 32.*33"),
        ("llama", "intermediate_size", ..., "mlp.down_proj.weight' is there.*no intermediate_size"),
        ("llama", "num_key_value_heads", 4, r"k_proj.weight' is 16x32.*32 \(num_key_value_heads"),
        ("llama", "vocab_size", 97.0, r"vocab_size is 97\.0, no whole number"),
        ("llama", "vocab_size", ..., "'model.embed_tokens.weight' is there.*no vocab_size"),
        ("gpt2", "n_inner", 100, r"mlp.c_fc.weight' is 32x128.*100 \(n_inner\)"),
        ("qwen3_moe", "num_local_experts", 5, r"mlp.gate.weight' is 4x32.*5 \(num_local_experts\)"),
    ],
)
def test_the_message_names_tensor_and_key(name: str, key: str, value: Any, words: str) -> None:
    both = opened(name)
    with pytest.raises(CheckpointError, match=words) as caught:
        Pair(*with_config(both, key, value), LAYERS)
    assert str(both[0].directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_written(tmp_path: Path) -> None:
    paths = save_pair(tmp_path / "models", "llama")
    out = tmp_path / "out"
    configs = [json.loads((path / "config.json").read_text()) for path in paths]
    for change in ({"hidden_size": 33}, {"intermediate_size": "48"}, {"vocab_size": None}):
        for path, config in zip(paths, configs, strict=True):
            (path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=next(iter(change))):
            boomerang.build(*paths, out, patch=1)
    for path, config in zip(paths, configs, strict=True):
        (path / "config.json").write_text(json.dumps(config))
        weights = load_file(path / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "up_proj" not in name}
        save_file(kept, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.\*\.mlp\.up_proj"):
        boomerang.build(*paths, out, patch=1)
    assert {path.name for path in tmp_path.iterdir()} == {"models"}


# What must be left alone


def checkpoint(config: dict[str, Any], shapes: Shapes, dtype: str = "F32") -> Checkpoint:
    where = Path("somewhere")
    tensors = {name: Tensor(name, where, dtype, shape, 0, 0) for name, shape in shapes.items()}
    return Checkpoint(where, config, tensors, layout_of(config, tensors, where))


def check(one: Checkpoint) -> None:
    check_numbers(one)
    check_complete(one)
    check_widths(one)


def of_class(kind: str, **changes: Any) -> Checkpoint:
    """What a model of transformers has and what its config says, at the sizes of its class."""
    config = CONFIG_MAPPING[kind](**changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes: dict[int, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        shapes.setdefault(id(tensor), (name, tuple(tensor.shape)))
    return checkpoint(json.loads(model.config.to_json_string()), dict(shapes.values()))


SMALL = {"num_hidden_layers": 4}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("bloom", SMALL),
    "codegen": ("codegen", SMALL),
    "cohere, one norm for both parts": ("cohere", SMALL),
    "deepseek_v3, latent attention": ("deepseek_v3", SMALL | {"n_routed_experts": 8}),
    "deepseek_v2, queries as they are": (
        "deepseek_v2",
        SMALL | {"n_routed_experts": 8, "q_lora_rank": None},
    ),
    "falcon, one head for all": ("falcon", SMALL),
    "falcon, every head": ("falcon", SMALL | {"multi_query": False}),
    "falcon, grouped": ("falcon", SMALL | {"new_decoder_architecture": True, "num_kv_heads": 8}),
    "gemma2": ("gemma2", SMALL),
    "gpt_bigcode": ("gpt_bigcode", SMALL),
    "gpt_bigcode, every head": ("gpt_bigcode", SMALL | {"multi_query": False}),
    "gpt_neo": ("gpt_neo", {"num_layers": 4, "attention_types": [[["global", "local"], 2]]}),
    "gptj": ("gptj", SMALL),
    "granitemoehybrid, state spaces": ("granitemoehybrid", SMALL | {"num_local_experts": 0}),
    "lfm2, a computed width": ("lfm2", SMALL),
    "mamba": ("mamba", SMALL),
    "mixtral": ("mixtral", SMALL),
    "mpt": ("mpt", {"n_layers": 4}),
    "olmo, no norms": ("olmo", SMALL),
    "opt, one norm fewer": (
        "opt",
        SMALL | {"do_layer_norm_before": False, "tie_word_embeddings": False},
    ),
    "phi": ("phi", SMALL | {"qk_layernorm": True}),
    "qwen2_moe, a shared expert": ("qwen2_moe", SMALL | {"num_experts": 8}),
    "qwen3_next, gated queries": ("qwen3_next", SMALL | {"num_experts": 8}),
    "recurrent_gemma": ("recurrent_gemma", SMALL),
    "stablelm, parallel parts": ("stablelm", SMALL | {"use_parallel_residual": True}),
    "starcoder2": ("starcoder2", SMALL),
    "xglm": ("xglm", {"num_layers": 4}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_models_of_transformers_pass(name: str) -> None:
    kind, changes = CLASSES[name]
    check(of_class(kind, **changes))


# What no rule is sure of, of the tensors of models that are not among the tiny ones.
UNSEEN: dict[str, set[str]] = {
    "bloom": set(),
    "deepseek_v3, latent attention": {"mlp.gate.e_score_correction_bias"},
    "falcon, one head for all": set(),
    "gemma2": set(),
    "gpt_bigcode": set(),
    "gpt_neo": {"wpe.weight", "attn.attention.out_proj.bias"},
    "gptj": {"lm_head.bias"},
    "mixtral": set(),
    "mpt": set(),
    "phi": {"lm_head.bias"},
    "qwen2_moe, a shared expert": {"mlp.shared_expert_gate.weight"},
    "starcoder2": {"self_attn.o_proj.bias"},
    "xglm": {"self_attn.k_proj.bias", "self_attn.out_proj.bias"},
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_other_models_lack_is_missed(name: str) -> None:
    kind, changes = CLASSES[name]
    whole = of_class(kind, **changes)
    unseen = set()
    # Whether an output matrix may be missing is told from the config.
    for dropped in {in_any_layer(n) for n in whole.tensors} - {whole.layout.output_matrix}:
        kept = {n: t.shape for n, t in whole.tensors.items() if in_any_layer(n) != dropped}
        try:
            check(checkpoint(whole.config, kept))
        except BoomerangError:
            continue
        unseen.add(dropped.removeprefix(in_any_layer(f"{whole.layout.stack}0.")))
    assert {name.removeprefix("transformer.") for name in unseen} == UNSEEN[name]


LLAMA: dict[str, Any] = {
    "num_hidden_layers": 2,
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}


def llama(*inner: int) -> Shapes:
    """A llama with layers whose feed-forward parts have these widths."""
    shapes: Shapes = {
        "model.embed_tokens.weight": (20, 8),
        "model.norm.weight": (8,),
        "lm_head.weight": (20, 8),
    }
    for i, width in enumerate(inner):
        layer: Shapes = {
            "input_layernorm": (8,),
            "self_attn.q_proj": (8, 8),
            "self_attn.k_proj": (4, 8),
            "self_attn.v_proj": (4, 8),
            "self_attn.o_proj": (8, 8),
            "post_attention_layernorm": (8,),
            "mlp.gate_proj": (width, 8),
            "mlp.up_proj": (width, 8),
            "mlp.down_proj": (8, width),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


@pytest.mark.parametrize(
    "said",
    [
        {"intermediate_size": [12, 16]},
        {"per_layer_config": {"01": {"intermediate_size": 16}}},
        {"intermediate_size": 12, "moe_intermediate_size": 16},
    ],
)
def test_layers_may_differ_where_the_config_says_so(said: dict[str, Any]) -> None:
    check(checkpoint(LLAMA | said, llama(12, 16)))
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp"):
        check(checkpoint(LLAMA | said, llama(12, 20)))


def test_a_nested_config_may_leave_out_what_its_class_knows() -> None:
    said = {
        key: value for key, value in LLAMA.items() if "heads" not in key and key != "vocab_size"
    }
    check(checkpoint({"text_config": said}, llama(12, 12)))
    with pytest.raises(CheckpointError, match="hidden_size"):
        check(checkpoint({"text_config": said | {"hidden_size": 9}}, llama(12, 12)))
    with pytest.raises(CheckpointError, match="no num_attention_heads"):
        check(checkpoint(said | {"vocab_size": 20}, llama(12, 12)))


def test_models_with_code_of_their_own_compute_their_own_widths() -> None:
    own = LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}
    shapes = llama(24, 24)
    shapes = {
        name.replace("q_proj", "W_pack"): s for name, s in shapes.items() if "k_proj" not in name
    }
    check(checkpoint(own | {"num_key_value_heads": [1, 2]}, shapes))
    with pytest.raises(CheckpointError, match="hidden_size"):
        check(checkpoint(own | {"hidden_size": 9}, shapes))


def test_packed_numbers_have_shapes_of_their_own() -> None:
    packed = {
        name: (math.prod(s) // 2, 1) if "proj" in name else s for name, s in llama(12, 12).items()
    }
    one = checkpoint(LLAMA, packed)
    tensors = {
        name: replace(tensor, dtype="U8" if "proj" in name else "BF16")
        for name, tensor in one.tensors.items()
    }
    check(replace(one, tensors=tensors))
    renamed = {
        name.replace("weight", "qweight") if "proj" in name else name: shape
        for name, shape in packed.items()
    }
    check(checkpoint(LLAMA, renamed))


def test_unknown_names_and_keys_are_left_alone() -> None:
    shapes = llama(12, 12) | {f"model.layers.{i}.self_attn.gating.weight": (3, 5) for i in (0, 1)}
    check(checkpoint(LLAMA | {"anything": 7.5}, shapes))
    # Heads of a second kind: which layer has which, only the class knows.
    other = LLAMA | {"num_attention_heads": 3, "swa_num_attention_heads": 2}
    check(checkpoint(other, shapes))


def test_overrides_of_a_layer_win() -> None:
    text = {"a": [1, 2, 3], "b": 4, "per_layer_config": {"001": {"b": 5}, "9" * 5000: {"b": 6}}}
    assert [layer_view(text, i, 3)["a"] for i in range(3)] == [1, 2, 3]
    assert [layer_view(text, i, 3)["b"] for i in range(3)] == [4, 5, 4]


def test_no_heads_are_no_division_by_zero() -> None:
    assert not read_widths(LLAMA | {"num_attention_heads": 0})["queries"]
