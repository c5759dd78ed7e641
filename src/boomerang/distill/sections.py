"""Small parts of a recipe: keys that have keys of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..settings import Section

Part = Literal["embedding", "head"]
Distance = Literal["cosine", "relative_squared_error"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PatchCount = Annotated[int, Field(ge=0)]


class KeepEvery(Section):
    """Kept layers by three numbers; see `LayerMap.every`."""

    every: int
    first: int = 1
    last: int = 2


class ModelOptions(Section):
    """How teacher and student are loaded, as in transformers.

    Args:
        attn_implementation: `sdpa`, `eager`, `flash_attention_2` ...; by default its own choice.
        trust_remote_code: Run Python code that comes with the checkpoints.
    """

    attn_implementation: str | None = None
    trust_remote_code: bool = False

    def for_tokenizer(self) -> dict[str, Any]:
        """Keyword arguments of `load_tokenizer`."""
        return {"trust_remote_code": self.trust_remote_code}

    def for_model(self) -> dict[str, Any]:
        """Keyword arguments of `load_model`."""
        if self.attn_implementation is None:
            return self.for_tokenizer()
        return {"attn_implementation": self.attn_implementation, **self.for_tokenizer()}


class Loss(Section):
    """The weights of the three terms; one of weight 0 is not computed.

    The loss of a step is `ce`·CE + `kl`·τ²·KL(teacher‖student) + `alignment`/(M+1) · Σ over the M+1
    aligned pairs of their mean distance (arXiv 2510.05064, section 3.2). The defaults are the
    paper's.

    Args:
        ce: Weight of the cross-entropy with the text.
        kl: Weight of the divergence from the teacher's predictions.
        alignment: Weight of the mean distance over all aligned pairs of hidden states.
        temperature: τ of the KL term.
        distance: `cosine`: 1 - cos(a, b); `relative_squared_error`: ‖a-b‖²/‖b‖², b the teacher's.
    """

    ce: Weight = 1.0
    kl: Weight = 0.1
    alignment: Weight = 2.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    distance: Distance = "cosine"

    @model_validator(mode="after")
    def _one_term(self) -> Loss:
        if not (self.ce or self.kl or self.alignment):
            raise ValueError("ce, kl and alignment are all 0: there is nothing to learn from")
        return self


class Evaluate(Section):
    """What is measured on the held-out rows besides the student.

    Args:
        members: Members of the family, as numbers of patched blocks along the recipe's order;
            by default the first size above the student, the middle, and the last below the teacher.
    """

    members: list[PatchCount] | None = None
