"""A member's `config.json` from its teacher's, by rules on JSON.

Each layer of a member keeps what the config said about the teacher layer it is or was cut from:
lists with an entry per layer are sliced, lists of layer indices renumbered, thresholds counted
again, and periodic rules written out where the format has a list for them. A key that depends
on layers in a way no rule here covers is refused: a stale key gives a wrong model that loads
silently.

Nothing here imports torch or transformers: a config is a dict, as `json.load` returns it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import ConfigError
from ..layers import FIRST_TO_LAST, LAST_TO_FIRST
from .quantization import QUANTIZATION_KEYS, renumbered

Config = dict[str, Any]

DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Nemotron-H in transformers 5 gives the number of layers by the length of this list alone.
_DEPTH_BY_LENGTH = "layers_block_type"

# The most tokens a model takes, by any of its names.
_POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
)  # fmt: skip

# Ten times the depth of DeepNet (1,000 layers, arXiv 2203.00555). No list and no module is made for
# each layer of a config that states more.
MAX_LAYERS = 10_000

# One entry for each layer: position i takes the entry of its teacher layer.
_ENTRY_PER_LAYER = frozenset({
    "activation_sparsity_pattern", "attention_layers", "attn_type_list", "indexer_types",
    "intermediate_size", "layer_rope_theta", "layer_types", "layers_block_type",
    "layers_num_experts", "mlp_layer_types", "moe_layer_freq", "no_rope_layers",
    "num_attention_heads_per_layer", "num_key_value_heads_per_layer", "sliding_windows",
    "swiglu_limits", "swiglu_limits_shared",
})  # fmt: skip

# Indices of the layers that something holds for: renumbered.
LAYER_INDICES = frozenset({
    "attn_layer_indices", "cross_attention_layers", "full_attn_idxs", "local_layer_ids",
    "moe_layers", "ple_layer_ids", "rope_scaling_layers",
})  # fmt: skip

# Layers below the number differ from the others. Members keep the teacher's layers in increasing
# order, so a threshold stays a threshold: the number of member layers that come from below it.
_THRESHOLDS = frozenset({
    "first_k_dense_replace", "max_window_layers", "moe_layer_start_index", "num_dense_layers",
})  # fmt: skip
_FIRST_WITH_EXPERTS, _LAST_WITH_EXPERTS = "moe_layer_start_index", "moe_layer_end_index"

# A periodic rule over layer indices, dead once the explicit list beside it is written.
_WRITTEN_OUT_AS = {
    "_sliding_window_pattern": "layer_types",
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "layer_group_size": "layer_types",
    "layer_switch": "layer_types",
    "prefix_dense_sliding_window_pattern": "layer_types",
    "sliding_window_pattern": "layer_types",
    "interleave_moe_layer_step": "moe_layers",
    "no_rope_layer_interval": "no_rope_layers",
}

# For `expand`: the lists that say what each layer is, and the rules that stand for such a list.
PER_LAYER_LISTS = _ENTRY_PER_LAYER | LAYER_INDICES
PERIODIC_RULES = frozenset(_WRITTEN_OUT_AS)

# How many layers for multi-token prediction follow the model's own; transformers does not run them.
FURTHER_TOKEN_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers")

# Keys whose names look as if they spoke of layers, and do not.
_HARMLESS = re.compile(
    r"layer_?norm|norm_layer|layer_?drop|layer_scale_init|^use_weighted_layer_sum$|hidden_layers$"
    r"|^n_layers?$|^num_layers$|^order_of_interleaved_layers$|^vocab_size_per_layer_input$|^mtp_"
)
_SPEAKS_OF_LAYERS = re.compile(
    r"layer|depth|pattern|_interval$|_period$|_offset$|every_n|sparse_step|_idxs?$|kv_shared"
    r"|attention_types|block_type|rescale_every"
)


def text_config(config: Config) -> Config:
    """The part of a config that describes the language model: itself, or its `text_config`.

    Raises:
        ConfigError: There is no key for the number of layers, the model is an encoder-decoder, or
            its type is no string.
    """
    text = config
    if not _gives_depth(config) and isinstance(config.get("text_config"), dict):
        text = config["text_config"]
    if config.get("is_encoder_decoder"):
        raise ConfigError(
            "is true: encoder-decoder models are not supported",
            where="is_encoder_decoder",
        )
    for part in (config, text):
        if not isinstance(part.get("model_type", ""), str):
            raise ConfigError(
                f"is {_short(part['model_type'])} and should be a string", where="model_type"
            )
    if not _gives_depth(text):
        raise ConfigError(
            "no key gives the number of layers",
            where="config.json",
            fix=f"one of {', '.join(DEPTH_KEYS)} is needed",
        )
    return text


def _gives_depth(config: Config) -> bool:
    return any(key in config for key in (*DEPTH_KEYS, _DEPTH_BY_LENGTH))


def num_layers(config: Config) -> int:
    """The number of layers, N, that a config states.

    Raises:
        ConfigError: The key is missing, no positive whole number up to `MAX_LAYERS`, or given
            twice and differently.
    """
    text = text_config(config)
    found = {key: text[key] for key in DEPTH_KEYS if text.get(key) is not None}
    if not found and isinstance(text.get(_DEPTH_BY_LENGTH), list):
        found = {_DEPTH_BY_LENGTH: len(text[_DEPTH_BY_LENGTH])}
    count = next(iter(found.values()), None)
    is_count = isinstance(count, int) and not isinstance(count, bool) and count > 0
    if not is_count or any(value != count for value in found.values()):
        raise ConfigError(f"the number of layers is unclear: {_short(found)}", where="config.json")
    assert isinstance(count, int)
    if count > MAX_LAYERS:
        raise ConfigError(
            f"states {_short(count)} layers; more than {MAX_LAYERS} are not supported",
            where="config.json",
        )
    return count


def max_positions(config: Config) -> int | None:
    """The longest text a model takes, in tokens, by its `config.json`; None for no limit.

    Raises:
        ConfigError: As `text_config`.
    """
    text = text_config(config)
    limits = [text[key] for key in _POSITIONS if isinstance(text.get(key), int)]
    return min((limit for limit in limits if limit > 0), default=None)


def paper_order(teacher: Config) -> str:
    """The paper's order for a teacher with this config (arXiv 2510.05064, section 4.1).

    First-to-last for the type llama, last-to-first for all others. Every order works on every
    architecture; the choice changes quality alone.
    """
    return FIRST_TO_LAST if teacher.get("model_type") == "llama" else LAST_TO_FIRST


def member_config(teacher: Config, teacher_layers: Sequence[int], *, tied: bool) -> Config:
    """The config of a model whose layer i is, or was cut from, teacher layer `teacher_layers[i]`.

    Args:
        teacher: The teacher's config, left as it is.
        teacher_layers: A teacher layer index for each layer of the new model, increasing.
        tied: Whether the new model's head and embedding are one matrix.

    Returns:
        A new config with the teacher's keys; explicit lists replace periodic rules.

    Raises:
        ConfigError: A key depends on layers in a way that no rule covers; `where` names it.
    """
    total = num_layers(teacher)
    config = copy.deepcopy(teacher)
    text = text_config(config)
    for key in list(text):
        if key in text and key not in QUANTIZATION_KEYS:
            try:
                _carry_over(text, key, teacher_layers, total)
            except ConfigError:
                raise
            except (TypeError, ValueError):
                raise ConfigError(f"is {_short(text[key])}, of another kind", where=key) from None
    for key in DEPTH_KEYS:
        if text.get(key) is not None:
            text[key] = len(teacher_layers)
    for part in [config] if text is config else [config, text]:
        for key in QUANTIZATION_KEYS:
            if key in part:
                part[key] = renumbered(part[key], teacher_layers, total, key)
    config["tie_word_embeddings"] = tied
    if "tie_word_embeddings" in text:
        text["tie_word_embeddings"] = tied
    return config


def set_dtype(config: Config, dtype: str) -> None:
    """Let a config state another dtype of the weights, wherever it states one.

    Args:
        config: A `config.json`; changed in place.
        dtype: torch's name of it.
    """
    # transformers 5 writes "dtype", its predecessors "torch_dtype"; nested configs have their own.
    for part in (config, text_config(config)):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = dtype


def _carry_over(text: Config, key: str, layers: Sequence[int], total: int) -> None:
    value = text[key]
    if key in _SPECIAL:
        _SPECIAL[key](text, layers, total)
    elif key in _ENTRY_PER_LAYER and isinstance(value, list):
        text[key] = _sliced(value, key, layers, total)
    elif key in LAYER_INDICES and isinstance(value, list):
        text[key] = _positions(layers, value)
    elif key in _THRESHOLDS and isinstance(value, int):
        text[key] = _below(value, layers, total)
    elif key in _WRITTEN_OUT_AS:
        if not isinstance(text.get(_WRITTEN_OUT_AS[key]), list):
            raise ConfigError(
                f"is a rule over layer indices without {_WRITTEN_OUT_AS[key]} beside it",
                where=key,
                fix=f"add the explicit {_WRITTEN_OUT_AS[key]} (loading and saving the config with "
                "transformers 5 writes it)",
            )
    elif _is_unknown(key, value, total):
        raise ConfigError(
            f"is {_short(value)}: no rule says how it changes with the number of layers",
            where=key,
            fix="this architecture is not supported",
        )


def _is_unknown(key: str, value: Any, total: int) -> bool:
    # A switched-off feature cannot go stale.
    if value is None or value is False or value in (0, [], {}):
        return False
    if key in _ENTRY_PER_LAYER or key in LAYER_INDICES or key in _THRESHOLDS:
        return not isinstance(value, int | float | str)
    if _SPEAKS_OF_LAYERS.search(key) and not _HARMLESS.search(key):
        return True
    # An unnamed list with as many entries as there are layers may well be one for each of them.
    per_layer = isinstance(value, list) and len(value) == total > 3
    return per_layer and not key.endswith("token_id") and key != "architectures"


def _sliced(entries: list[Any], key: str, layers: Sequence[int], total: int) -> list[Any]:
    if len(entries) != total:
        raise ConfigError(f"has {len(entries)} entries for {total} layers", where=key)
    return [entries[i] for i in layers]


def _below(threshold: int, layers: Sequence[int], total: int) -> int:
    # A number beyond the last layer means "all layers" and still does.
    return threshold if threshold > total else sum(i < threshold for i in layers)


def _positions(layers: Sequence[int], indices: Iterable[int]) -> list[int]:
    chosen = set(indices)
    return [position for position, i in enumerate(layers) if i in chosen]


def _dense_layers(text: Config, layers: Sequence[int], total: int) -> None:
    """Experts in every n-th layer but the listed ones (Qwen MoE): list every dense layer."""
    step = text["decoder_sparse_step"]
    if not isinstance(step, int) or step < 1:
        raise ConfigError(f"is {step!r}", where="decoder_sparse_step")
    listed = set(text.get("mlp_only_layers") or [])
    dense = [i for i in range(total) if i in listed or (i + 1) % step]
    text["decoder_sparse_step"] = 1
    text["mlp_only_layers"] = _positions(layers, dense)


def _done_with_sparse_step(text: Config, layers: Sequence[int], total: int) -> None:
    """`mlp_only_layers` is rewritten by `_dense_layers`, whichever key comes first."""
    if "decoder_sparse_step" not in text:
        text["mlp_only_layers"] = _positions(layers, text["mlp_only_layers"] or [])


def _moe_interval(text: Config, layers: Sequence[int], total: int) -> None:
    """Experts in every n-th layer of a range: representable only when n is 1."""
    _only_one(text, "moe_layer_interval")


def _moe_frequency(text: Config, layers: Sequence[int], total: int) -> None:
    """Experts in every n-th layer from a threshold on (DeepSeek), or an entry for each layer."""
    if isinstance(text["moe_layer_freq"], list):
        text["moe_layer_freq"] = _sliced(text["moe_layer_freq"], "moe_layer_freq", layers, total)
    elif text["moe_layer_freq"] is not None:
        _only_one(text, "moe_layer_freq")


def _only_one(text: Config, key: str) -> None:
    if type(text[key]) is not int or text[key] != 1:
        raise ConfigError(
            f"is {_short(text[key])}, a rule over layer indices with no explicit form",
            where=key,
            fix="this architecture is not supported",
        )


def _moe_range(text: Config, layers: Sequence[int], total: int) -> None:
    """The first and the last layer with experts, both inclusive; -1 for the last of all.

    Called for the one key and for the other: both are rewritten with the last one's.
    """
    start, end = text.get(_FIRST_WITH_EXPERTS), text[_LAST_WITH_EXPERTS]
    if isinstance(start, int):
        text[_FIRST_WITH_EXPERTS] = _below(start, layers, total)
    if end is None or end < 0:
        return
    text[_LAST_WITH_EXPERTS] = sum(i <= end for i in layers) - 1
    if text[_LAST_WITH_EXPERTS] < 0:
        # No layer has experts, which is said by a range that begins after the last layer.
        text[_FIRST_WITH_EXPERTS] = len(layers)


def _moe_start(text: Config, layers: Sequence[int], total: int) -> None:
    """The same without a last layer; beside one, `_moe_range` does it."""
    start = text[_FIRST_WITH_EXPERTS]
    if _LAST_WITH_EXPERTS not in text and isinstance(start, int):
        text[_FIRST_WITH_EXPERTS] = _below(start, layers, total)


def _pattern(text: Config, layers: Sequence[int], total: int) -> None:
    """A letter for each layer (Nemotron-H)."""
    letters = text["hybrid_override_pattern"]
    if letters is not None:
        kept = _sliced(list(letters), "hybrid_override_pattern", layers, total)
        text["hybrid_override_pattern"] = "".join(kept)


def _per_layer_config(text: Config, layers: Sequence[int], total: int) -> None:
    """Overrides by layer index, as a dict with (zero-padded) numbers for keys."""
    overrides = text["per_layer_config"]
    if not overrides:
        return
    if not isinstance(overrides, dict):
        raise ConfigError("is no dict by layer index", where="per_layer_config")
    by_layer = {int(key): value for key, value in overrides.items()}
    width = len(str(len(layers) - 1))
    text["per_layer_config"] = {
        f"{position:0{width}d}": by_layer[i] for position, i in enumerate(layers) if i in by_layer
    }


def _attention_types(text: Config, layers: Sequence[int], total: int) -> None:
    """`[[[types], repeats], ...]`, unrolled into one entry for each layer."""
    runs = [(tuple(kinds), times) for kinds, times in text["attention_types"]]
    # Counted before anything of that length is made.
    counts = [(len(kinds), times) for kinds, times in runs]
    if not all(type(times) is int and 0 <= times <= total for _, times in counts) or total != sum(
        kinds * times for kinds, times in counts
    ):
        raise ConfigError(
            f"is {_short(text['attention_types'])} and does not unroll to {total} layers",
            where="attention_types",
        )
    unrolled = [kind for kinds, times in runs for _ in range(times) for kind in kinds]
    text["attention_types"] = [[[unrolled[i]], 1] for i in layers]


def _no_further_tokens(text: Config, layers: Sequence[int], total: int) -> None:
    """Layers that predict further tokens are not carried over: they fit one depth only."""
    for key in FURTHER_TOKEN_LAYERS:
        if text.get(key) is not None:
            text[key] = 0


_SPECIAL: dict[str, Callable[[Config, Sequence[int], int], None]] = {
    "decoder_sparse_step": _dense_layers,
    "mlp_only_layers": _done_with_sparse_step,
    "moe_layer_freq": _moe_frequency,
    "moe_layer_interval": _moe_interval,
    _FIRST_WITH_EXPERTS: _moe_start,
    _LAST_WITH_EXPERTS: _moe_range,
    "hybrid_override_pattern": _pattern,
    "per_layer_config": _per_layer_config,
    "attention_types": _attention_types,
    "num_nextn_predict_layers": _no_further_tokens,
    "num_mtp_layers": _no_further_tokens,
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
