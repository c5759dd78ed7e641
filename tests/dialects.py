"""Teachers as the hub has them: configs by hand, tensors under the hub's names, files of all kinds.

Transformers 5 respells much of what it saves; these directories are written without its `save`.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from published import write_json, write_tokenizer

Json = dict[str, Any]

NUM_LAYERS = 5
KEPT = (0, 2, 4)

# What configs of transformers 4 had in common.
_OLD: Json = {
    "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 32,
    "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 64,
    "num_attention_heads": 4, "num_hidden_layers": NUM_LAYERS, "num_key_value_heads": 2,
    "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True,
    "vocab_size": 97, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip
# GPT-2's own words.
_GPT2: Json = {
    "n_embd": 32, "n_head": 4, "n_layer": NUM_LAYERS, "n_positions": 64, "n_ctx": 64,
    "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_MOE: Json = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


@dataclass(frozen=True)
class Dialect:
    """How a teacher on the hub is written.

    Args:
        config: Its `config.json`.
        names: From the tensor names that transformers saves to the hub's, by pattern.
        files: Further files by name: JSON, or text; None removes one.
        dtype: Of the weights.
    """

    config: Json
    names: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.bfloat16


def _old(model_type: str, without: str = "", **keys: Any) -> Json:
    config = {"model_type": model_type, **_OLD, **keys}
    return {key: value for key, value in config.items() if key not in without.split()}


_PAD_BESIDE = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>",
        "pad_token": "<|pad|>", "model_max_length": 10**30, "clean_up_tokenization_spaces": True,
    },
}  # fmt: skip
_ADDED = {
    "added_tokens.json": {"<|im_start|>": 95, "<|im_end|>": 96},
    "special_tokens_map.json": {"eos_token": {"content": "<eos>", "lstrip": False}},
    "chat_template.jinja": "{{ messages }}",
}
_HYBRID = ["mamba", "mamba", "attention", "mamba", "attention"]
_MAMBA: Json = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16,
}  # fmt: skip

DIALECTS: dict[str, Dialect] = {
    "llama 1, pad_token_id -1": Dialect(
        _old("llama", "num_key_value_heads rope_theta", pad_token_id=-1, torch_dtype="float16"),
        dtype=torch.float16,
    ),
    "llama 2, rope_scaling null": Dialect(
        _old("llama", "rope_theta", rope_scaling=None, pretraining_tp=1, attention_bias=False),
        files={**_ADDED, "LICENSE.txt": "terms", "USE_POLICY.md": "policy"},
    ),
    "llama 3.1, several ends": Dialect(
        _old(
            "llama", eos_token_id=[2, 3],
            rope_scaling={
                "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32, "rope_type": "llama3",
            },
        ),
        files={"generation_config.json": {"eos_token_id": [2, 3], "temperature": 0.6,
                                          "do_sample": True, "top_p": 0.9}},
    ),
    "llama, linear scaling of old": Dialect(
        _old("llama", rope_scaling={"type": "linear", "factor": 2.0}), files=_PAD_BESIDE
    ),
    "llama, yarn": Dialect(
        _old("llama", rope_scaling={"type": "yarn", "factor": 4.0,
                                    "original_max_position_embeddings": 16}),
    ),
    "llama, nothing about ties": Dialect(_old("llama", "tie_word_embeddings torch_dtype")),
    "mistral 0.1": Dialect(_old("mistral", sliding_window=16), files=_ADDED),
    "mistral 0.3, no window": Dialect(_old("mistral", sliding_window=None, head_dim=8)),
    "mixtral": Dialect(
        _old("mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None,
             output_router_logits=False, router_aux_loss_coef=0.02),
    ),
    "qwen 1.5": Dialect(
        _old("qwen2", use_sliding_window=False, sliding_window=16, max_window_layers=21),
        files=_PAD_BESIDE,
    ),
    "qwen 2.5, tied": Dialect(
        _old("qwen2", use_sliding_window=False, sliding_window=16, max_window_layers=5,
             tie_word_embeddings=True, use_mrope=False),
        files={**_PAD_BESIDE, "merges.txt": "t h", "vocab.json": {"t": 1}},
    ),
    "qwen 3": Dialect(
        _old("qwen3", head_dim=8, attention_bias=False, rope_scaling=None, sliding_window=None,
             use_sliding_window=False, max_window_layers=5, tie_word_embeddings=True),
        files=_PAD_BESIDE,
    ),
    "qwen 3 moe": Dialect(
        _old("qwen3_moe", head_dim=8, num_experts=4, decoder_sparse_step=1, mlp_only_layers=[],
             norm_topk_prob=True, rope_scaling=None, sliding_window=None, **_MOE),
    ),
    "qwen 1.5 moe": Dialect(
        _old("qwen2_moe", num_experts=4, decoder_sparse_step=1, max_window_layers=21,
             shared_expert_intermediate_size=32, use_sliding_window=False, sliding_window=16,
             **_MOE),
    ),
    "gemma 1, hidden_act gelu": Dialect(
        _old("gemma", "tie_word_embeddings", head_dim=8, hidden_act="gelu", pad_token_id=0),
        files=_ADDED,
    ),
    "gemma 1.1, hidden_activation null": Dialect(
        _old("gemma", "tie_word_embeddings", head_dim=8, hidden_act="gelu_pytorch_tanh",
             hidden_activation=None),
    ),
    "gemma 2": Dialect(
        _old("gemma2", "tie_word_embeddings", head_dim=8, hidden_act="gelu_pytorch_tanh",
             hidden_activation="gelu_pytorch_tanh", attn_logit_softcapping=50.0,
             final_logit_softcapping=30.0, query_pre_attn_scalar=8, sliding_window=16,
             sliding_window_size=16, cache_implementation="hybrid"),
    ),
    "gemma 3": Dialect(
        _old("gemma3_text", "tie_word_embeddings", head_dim=8, rope_local_base_freq=10000.0,
             hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=8, sliding_window=16,
             sliding_window_pattern=6, rope_scaling=None),
        files=_ADDED,
    ),
    "phi 2": Dialect(
        _old("phi", "rms_norm_eps num_key_value_heads", layer_norm_eps=1e-5, hidden_act="gelu_new",
             partial_rotary_factor=0.5, num_key_value_heads=None, qk_layernorm=False,
             rope_scaling=None, torch_dtype="float16"),
        files=_ADDED, dtype=torch.float16,
    ),
    "phi 3": Dialect(
        _old("phi3", original_max_position_embeddings=64, rope_scaling=None, sliding_window=16,
             pad_token_id=0, embd_pdrop=0.0, resid_pdrop=0.0),
        files=_ADDED,
    ),
    "gpt2": Dialect(
        {"model_type": "gpt2", **_GPT2, "task_specific_params": {"text-generation": {"a": 1}},
         "summary_type": "cls_index"},
        names={r"^transformer\.": ""},
        files={"merges.txt": "t h", "vocab.json": {"t": 1}, "tokenizer_config.json": {
            "model_max_length": 1024}},
        dtype=torch.float32,
    ),
    "gpt neo": Dialect(
        {"model_type": "gpt_neo", "hidden_size": 32, "num_heads": 4, "num_layers": NUM_LAYERS,
         "attention_types": [[["global", "local"], 2], [["global"], 1]], "window_size": 16,
         "max_position_embeddings": 64, "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2,
         "attention_layers": ["global", "local", "global", "local", "global"],
         "intermediate_size": None, "activation_function": "gelu_new"},
        dtype=torch.float32,
    ),
    "gpt j": Dialect(
        {"model_type": "gptj", **_GPT2, "rotary_dim": 4, "rotary": True, "n_inner": None,
         "tie_word_embeddings": False, "scale_attn_weights": True},
        dtype=torch.float16,
    ),
    "pythia": Dialect(
        _old("gpt_neox", "rms_norm_eps rope_theta num_key_value_heads", hidden_act="gelu",
             layer_norm_eps=1e-5, rotary_emb_base=10000, rotary_pct=0.25, torch_dtype="float16",
             use_parallel_residual=True),
        dtype=torch.float16,
    ),
    "bloom": Dialect(
        {"model_type": "bloom", "n_layer": NUM_LAYERS, "n_head": 4, "hidden_size": 32,
         "vocab_size": 97, "n_inner": None, "offset_alibi": 100, "seq_length": 64,
         "pretraining_tp": 1, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
         "masked_softmax_fusion": True, "skip_bias_add": True, "unk_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "layer_norm_epsilon": 1e-5},
        names={r"^transformer\.": ""}, dtype=torch.float16,
    ),
    "falcon": Dialect(
        {"model_type": "falcon", "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 4,
         "hidden_size": 32, "vocab_size": 97, "multi_query": True, "parallel_attn": True,
         "new_decoder_architecture": False, "alibi": False, "bias": False,
         "layer_norm_epsilon": 1e-5, "torch_dtype": "bfloat16", "apply_residual_connection": False},
    ),
    "starcoder 2": Dialect(
        _old("starcoder2", "rms_norm_eps", norm_epsilon=1e-5, norm_type="layer_norm", use_bias=True,
             hidden_act="gelu_pytorch_tanh", mlp_type="default", sliding_window=16,
             tie_word_embeddings=True),
    ),
    "stablelm 2": Dialect(
        _old("stablelm", "rms_norm_eps", layer_norm_eps=1e-5, partial_rotary_factor=0.25,
             use_qkv_bias=True, rope_pct=0.25),
    ),
    "cohere": Dialect(
        _old("cohere", "rms_norm_eps tie_word_embeddings", layer_norm_eps=1e-5, logit_scale=0.0625,
             use_qk_norm=False, pad_token_id=0),
    ),
    "olmo": Dialect(_old("olmo", "rms_norm_eps", clip_qkv=None, rope_scaling=None)),
    "olmo 2": Dialect(_old("olmo2", attention_bias=False)),
    "olmoe": Dialect(
        _old("olmoe", num_experts=4, num_experts_per_tok=2, clip_qkv=None, norm_topk_prob=False),
    ),
    "granite 3": Dialect(
        _old("granite", attention_multiplier=0.1, embedding_multiplier=12.0, logits_scaling=8.0,
             residual_multiplier=0.22, tie_word_embeddings=True),
    ),
    "granite 4.0 h": Dialect(
        _old("granitemoehybrid", attention_multiplier=0.1, embedding_multiplier=12.0,
             logits_scaling=8.0, residual_multiplier=0.22, layer_types=_HYBRID,
             num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=48,
             position_embedding_type="nope", normalization_function="rmsnorm",
             tie_word_embeddings=True, **_MAMBA),
    ),
    "deepseek 3": Dialect(
        _old("deepseek_v3", kv_lora_rank=16, q_lora_rank=16, qk_nope_head_dim=8,
             qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_shared_experts=1, n_group=2,
             topk_group=1, first_k_dense_replace=1, moe_layer_freq=1, num_nextn_predict_layers=0,
             scoring_func="sigmoid", topk_method="noaux_tc", norm_topk_prob=True,
             routed_scaling_factor=2.5, num_key_value_heads=4, ep_size=1, **_MOE),
    ),
    "glm 4": Dialect(
        _old("glm4", head_dim=8, partial_rotary_factor=0.5, attention_bias=True,
             eos_token_id=[2, 3], pad_token_id=0),
    ),
    "smollm 3": Dialect(
        _old("smollm3", no_rope_layers=[1, 1, 1, 0, 1], no_rope_layer_interval=4,
             use_sliding_window=False, sliding_window=None, max_window_layers=5,
             pad_token_id=None,
             layer_types=["full_attention"] * NUM_LAYERS, pretraining_tp=2),
        files={**_ADDED, "generation_config.json": {"eos_token_id": 2, "temperature": 0.6}},
    ),
    "exaone 4": Dialect(
        _old("exaone4", head_dim=8, sliding_window=16, sliding_window_pattern="LLLG",
             layer_types=["sliding_attention"] * 3 + ["full_attention", "sliding_attention"]),
    ),
    "glm 4.5": Dialect(
        _old("glm4_moe", head_dim=8, partial_rotary_factor=0.5, attention_bias=True, pad_token_id=0,
             n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1, use_qk_norm=True,
             first_k_dense_replace=1, num_nextn_predict_layers=0, routed_scaling_factor=1.0,
             norm_topk_prob=True, eos_token_id=[2, 3], **_MOE),
    ),
    "ernie 4.5 moe": Dialect(
        _old("ernie4_5_moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=16,
             moe_num_shared_experts=1, moe_layer_start_index=1, moe_layer_end_index=4,
             moe_layer_interval=1, moe_capacity=[64, 64, 64], use_bias=False, pad_token_id=0,
             tie_word_embeddings=True),
    ),
    "lfm 2": Dialect(
        _old("lfm2", "rms_norm_eps tie_word_embeddings", norm_eps=1e-5, conv_L_cache=3,
             conv_bias=False, block_auto_adjust_ff_dim=False, block_ff_dim=48, block_dim=32,
             conv_dim=32, full_attn_idxs=[2, 4], tie_embedding=True, block_use_swiglu=True),
    ),
    "qwen 3 next": Dialect(
        _old("qwen3_next", head_dim=8, full_attention_interval=4, num_experts=4,
             decoder_sparse_step=1, mlp_only_layers=[], shared_expert_intermediate_size=16,
             partial_rotary_factor=0.25, linear_num_key_heads=2, linear_num_value_heads=4,
             linear_key_head_dim=8, linear_value_head_dim=8, linear_conv_kernel_dim=4, **_MOE),
    ),
    "nemotron h": Dialect(
        _old("nemotron_h", "rms_norm_eps", hybrid_override_pattern="M-M*-", head_dim=8,
             attention_head_dim=8, mamba_num_heads=8, mamba_head_dim=8, n_groups=1,
             ssm_state_size=16, conv_kernel=4, chunk_size=16, expand=2, layer_norm_epsilon=1e-5,
             mlp_hidden_act="relu2"),
    ),
    "gpt oss": Dialect(
        _old("gpt_oss", head_dim=8, num_local_experts=4, experts_per_token=2,
             num_experts_per_tok=2, sliding_window=16, initial_context_length=32,
             layer_types=["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
             swiglu_limit=7.0, attention_bias=True, rope_scaling={
                 "beta_fast": 32.0, "beta_slow": 1.0, "factor": 2.0, "rope_type": "yarn",
                 "original_max_position_embeddings": 32, "truncate": False}),
    ),
}  # fmt: skip


def write_teacher(directory: Path, name: str) -> Path:
    """Write the teacher of a dialect with random weights; its directory."""
    dialect = DIALECTS[name]
    teacher = directory / "teacher"
    teacher.mkdir(parents=True)
    config = json.loads(json.dumps(dialect.config))
    torch.manual_seed(0)
    kind = config["model_type"]
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind].from_dict(config))
    with tempfile.TemporaryDirectory() as saved:
        model.to(dialect.dtype).save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
    for pattern, new in dialect.names.items():
        tensors = {re.sub(pattern, new, key): value for key, value in tensors.items()}
    save_file(tensors, teacher / "model.safetensors", metadata={"format": "pt"})
    write_json(teacher / "config.json", {"architectures": [type(model).__name__], **config})
    write_tokenizer(teacher)
    for file, content in dialect.files.items():
        if isinstance(content, str):
            (teacher / file).write_text(content)
        else:
            write_json(teacher / file, content)
    return teacher
