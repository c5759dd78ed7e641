"""The way from final hidden states to logits, for every kind of head."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GraniteConfig,
    Llama4TextConfig,
    ModernBertDecoderConfig,
    PhiConfig,
    PreTrainedModel,
)

from boomerang.errors import ArchitectureError
from boomerang.models.head import Head
from tiny_models import ARCHITECTURES, GROUPED, SHAPE, tiny_model

# What comes after the output matrix, or before it, beyond the architectures of `tiny_models`.
HEADS: dict[str, Callable[[], PreTrainedModel]] = {
    "soft-capping": lambda: AutoModelForCausalLM.from_config(
        Gemma2Config(
            **GROUPED,
            num_hidden_layers=2,
            head_dim=8,
            query_pre_attn_scalar=8,
            final_logit_softcapping=2.0,
        )
    ),
    "scaling": lambda: AutoModelForCausalLM.from_config(
        CohereConfig(**GROUPED, num_hidden_layers=2, logit_scale=0.3)
    ),
    "division": lambda: AutoModelForCausalLM.from_config(
        GraniteConfig(**GROUPED, num_hidden_layers=2, logits_scaling=3.0)
    ),
    "factor in the base model": lambda: AutoModelForCausalLM.from_config(
        FalconH1Config(
            **GROUPED,
            num_hidden_layers=2,
            mamba_d_ssm=32,
            mamba_n_heads=4,
            mamba_d_head=8,
            mamba_d_state=8,
            lm_head_multiplier=0.5,
        )
    ),
    "bias": lambda: AutoModelForCausalLM.from_config(PhiConfig(**SHAPE, num_hidden_layers=2)),
    "transform": lambda: AutoModelForCausalLM.from_config(
        ModernBertDecoderConfig(
            **SHAPE, num_hidden_layers=2, cls_token_id=1, sep_token_id=2, head_dim=8
        )
    ),
    "masked": lambda: BertForMaskedLM(BertConfig(**SHAPE, num_hidden_layers=2)),
    "no base model by transformers' word": lambda: AutoModelForCausalLM.from_config(
        Llama4TextConfig(
            **GROUPED,
            num_hidden_layers=2,
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=2,
            attn_temperature_tuning=False,
        )
    ),
}


def make_head(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model of a kind of `HEADS` or `ARCHITECTURES`, all of its tensors far from 0."""
    if kind in ARCHITECTURES:
        return tiny_model(kind, num_layers=2, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HEADS[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *HEADS])
def test_the_head_of_the_final_states_is_the_model_bitwise(kind: str) -> None:
    model = make_head(kind)
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    head = Head(model)
    with torch.no_grad():
        expected = model(ids).logits
        states = head.base(input_ids=ids, return_dict=True, use_cache=False)[0]
        assert torch.equal(head(states.flatten(0, 1)), expected.flatten(0, 1))
        with head.repeated({}):
            assert torch.equal(head(states.flatten(0, 1)), expected.flatten(0, 1))
        # And the model is what it was.
        assert torch.equal(model(ids).logits, expected)


def test_its_parameters_are_those_after_the_layers_and_a_tied_matrix() -> None:
    for kind, tied, count in (("llama", False, 1), ("llama", True, 1), ("gpt_neox", None, 1)):
        model = tiny_model(kind, num_layers=2, tied=tied)
        assert len(Head(model).parameters()) == count
        assert Head(model).parameters()[0] is model.get_output_embeddings().weight
    masked = make_head("masked")
    names = {id(p): name for name, p in masked.named_parameters()}
    # The decoder's weight is the embedding's, its bias the one beside it.
    assert {names[id(p)] for p in Head(masked).parameters()} == {
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }


def test_a_base_model_alone_has_no_head() -> None:
    with pytest.raises(ArchitectureError, match="no base model"):
        Head(tiny_model("llama", num_layers=2).model)
