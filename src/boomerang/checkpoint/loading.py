"""Live models and tokenizers from checkpoint directories, from safetensors only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, DataError
from ..models.config import max_positions, num_layers
from ..models.names import is_dropped
from .directory import read_config, says_tied, warn_of_unused_head
from .identity import not_finite
from .weights import read_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    directory: Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    **model_kwargs: Any,
) -> PreTrainedModel:
    """A causal language model in evaluation mode, from a checkpoint directory.

    Args:
        directory: The checkpoint.
        dtype: Of the weights; by default the checkpoint's own.
        device: Of the weights; by default the CPU.
        trust_remote_code: Run Python code that comes with the checkpoint.
        **model_kwargs: For `from_pretrained`, such as `attn_implementation` or `device_map`.

    Raises:
        CheckpointError: There are no safetensors weights, they do not fit the config, or a number
            among them is NaN or infinite.
        ConfigError: The config gives no number of layers, or more than are supported.
    """
    config, tensors = read_config(directory), read_weights(directory)
    depth, count = num_layers(config), len(tensors)
    if depth > count:
        # Making so many layers could take all memory, long before transformers misses a tensor.
        raise CheckpointError(
            f"config.json says {depth} layers and the weights are {count} tensors", where=directory
        )
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # Its report of unfit tensors is a table of many lines; the errors below name the first.
    logging.set_verbosity_error()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            # Always a boolean: transformers takes None as "ask on standard input".
            trust_remote_code=trust_remote_code,
            **model_kwargs,
        )
    except Exception as error:  # whatever a broken config or file makes of transformers' code
        raise CheckpointError(f"cannot be loaded ({_reason(error)})", where=directory) from error
    finally:
        logging.set_verbosity(verbosity)
    model, report = loaded
    missing, extra = report["missing_keys"], report["unexpected_keys"]
    if extra:
        # transformers passes over the buffers of older versions, but not under every name.
        extra = {
            name
            for name in extra
            if not is_dropped(name, tensors[name].shape if name in tensors else ())
        }
    for found, verb in ((missing, "lacks"), (extra, "has extra")):
        if found:
            names = ", ".join(sorted(found)[:3])
            raise CheckpointError(f"{verb} tensors for its config: {names}", where=directory)
    for name, found, expected in sorted(report["mismatched_keys"])[:1]:
        raise CheckpointError(
            f"tensor {name} is {_spell(found)} and its config makes it {_spell(expected)}",
            where=directory,
        )
    _check_finite(model, directory)
    if says_tied(config):
        _tie(model, directory)
    _return_plain_outputs(model)
    result: PreTrainedModel = model if device is None else model.to(device)
    return result.eval()


# Keys of a config that change what forward returns, and the values that all code here expects.
_OUTPUT = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def _return_plain_outputs(model: PreTrainedModel) -> None:
    """Let forward return an output object, without attentions and states, whatever the config says.

    `config.json` on disk keeps its own values.
    """
    for config in (model.config, model.config.get_text_config()):
        for key, value in _OUTPUT.items():
            if getattr(config, key, value) != value:
                setattr(config, key, value)


def _check_finite(model: PreTrainedModel, directory: Path) -> None:
    import torch

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        # Numbers of one byte and packed ones are scaled when they are used.
        if tensor.is_meta or not tensor.is_floating_point() or tensor.element_size() == 1:
            continue
        # One pass and no copy; a NaN is both the least and the largest.
        if tensor.numel() and not torch.stack(torch.aminmax(tensor.detach())).isfinite().all():
            # A buffer may hold a mask, whose infinities are meant.
            if not isinstance(tensor, torch.nn.Parameter) and not tensor.isnan().any():
                continue
            raise not_finite(name, tensor.dtype, directory)


def _reason(error: Exception) -> str:
    """An error of another library in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.300}" if text else type(error).__name__


def _spell(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _tie(model: PreTrainedModel, directory: Path) -> None:
    """Tie the matrices of a model that was just loaded; transformers leaves unlike ones apart."""
    from ..models.assembly import same_tensor

    table: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    if output is None or not model._tied_weights_keys or output.weight is table.weight:
        return
    if not same_tensor(output.weight, table.weight):
        warn_of_unused_head(directory)
    model.tie_weights()
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint directory.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise CheckpointError(
            f"has no readable tokenizer ({_reason(error)})", where=directory
        ) from error
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        raise CheckpointError(
            f"model_max_length is {longest!r:.80} and should be a number",
            where=directory / "tokenizer_config.json",
        )
    result: PreTrainedTokenizerBase = tokenizer
    return result


def check_tokens(model: PreTrainedModel, largest: int) -> None:
    """Refuse the largest token id of a text if the model's embedding has no row for it.

    Raises:
        DataError: The id is beyond the embedding.
    """
    table: Any = model.get_input_embeddings()
    rows = table.weight.shape[0]
    if largest >= rows:
        raise DataError(
            f"the tokenizer makes token {largest} of this text, and the model's embedding has "
            f"only {rows} rows",
            fix="use the tokenizer that the model was trained with",
        )


def generate(model: PreTrainedModel, **options: Any) -> Any:
    """What `model.generate` returns for the options.

    Raises:
        CheckpointError: A value in the model's generation config cannot be used.
    """
    method: Any = model.generate
    try:
        return method(**options)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"generation fails with these settings ({_reason(error)})",
            where="generation_config.json",
            fix="mend or remove this file; if it is right, look for the value in config.json",
        ) from error


def continuation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int,
    *,
    chat: bool = False,
) -> str:
    """The text that a model generates after a prompt, by its own generation config.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompt: Text of at least one token.
        max_new_tokens: The most tokens to generate; fewer where the model has no positions left.
        chat: Give the prompt as a user's message, through the tokenizer's chat template, and strip
            the answer.

    Raises:
        CheckpointError: A value in the generation config cannot be used.
        DataError: The prompt is not UTF-8 text, takes all of the model's positions or has a token
            without a row in the embedding, or `chat` is given and the tokenizer has no chat
            template, or one that does not take the message.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError:  # bytes on the command line that are not UTF-8
        raise DataError("the prompt is not UTF-8 text", fix="give it as UTF-8") from None
    if chat:
        inputs: Any = _as_message(tokenizer, prompt)
    else:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    check_tokens(model, max(inputs["input_ids"].flatten().tolist(), default=0))
    inputs = inputs.to(model.device)
    limit = max_positions(model.config.to_dict())
    if limit is not None:
        length = inputs["input_ids"].shape[1]
        if length >= limit:
            raise DataError(
                f"the prompt has {length} tokens and the model takes {limit} in all",
                fix="give a shorter one",
            )
        max_new_tokens = min(max_new_tokens, limit - length)
    # Padding is never needed for one prompt; naming a token keeps generate from warning about it.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    output = generate(
        model,
        **inputs,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        return_dict_in_generate=False,
    )
    # Some tokenizers drop the space before the first token they decode, so decode from the start.
    before, whole = (
        str(tokenizer.decode(tokens, skip_special_tokens=True))
        for tokens in (inputs["input_ids"][0], output[0])
    )
    return whole[len(before) :].strip() if chat else whole[len(before) :]


def _as_message(tokenizer: PreTrainedTokenizerBase, prompt: str) -> Any:
    if tokenizer.chat_template is None:
        raise DataError("the tokenizer has no chat template", fix="leave out --chat")
    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    except Exception as error:  # a template is a program, and raises what it likes
        raise DataError(
            f"the tokenizer's chat template does not take the prompt ({error})",
            fix="leave out --chat",
        ) from None
