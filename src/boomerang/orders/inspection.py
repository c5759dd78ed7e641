"""What a teacher's layers do on text, and how well a student stands in for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.loading import check_tokens
from ..checkpoint.sources import Source, Sources
from ..evaluate.perplexity import fit_window
from ..family import Family
from ..layers import FIRST_TO_LAST, LAST_TO_FIRST, LayerMap, Member
from ..models.parts import layer_stack
from ..text.documents import read_documents
from ..text.windows import Text, prepare
from .advice import Advice, advise_keep, advise_order
from .divergence import Prediction, predictions
from .similarity import Similarity, similarity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ORDERS = (LAST_TO_FIRST, FIRST_TO_LAST)


@dataclass(frozen=True)
class Patched:
    """A member and how it predicts the text.

    Attributes:
        member: Which one.
        prediction: Its loss, and its KL from the teacher.
    """

    member: Member
    prediction: Prediction

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        return {
            "patched": list(self.member.patched),
            "order": self.member.order,
            "num_layers": self.member.num_layers,
            "loss": self.prediction.loss,
            "perplexity": self.prediction.perplexity,
            "kl": self.prediction.kl,
        }


@dataclass(frozen=True)
class Inspection:
    """What was measured, and the advice that follows.

    Attributes:
        teacher: The teacher's states among themselves, pairs before and after each layer.
        keep: The layers to keep.
        student: The student's states against the teacher's; None without a student.
        ends: The student and the teacher.
        alone: For each student layer the member with that layer patched and no other.
        orders: Members along each sequential order, of the same patches.
        order: The end to patch from; None without a student or where no size lies between them.
    """

    teacher: Similarity
    keep: Advice
    student: Similarity | None = None
    ends: tuple[Patched, ...] = ()
    alone: tuple[Patched, ...] = ()
    orders: tuple[Patched, ...] = ()
    order: Advice | None = None

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values."""
        content: dict[str, Any] = {"teacher": self.teacher.to_json(), "keep": asdict(self.keep)}
        if self.student is not None:
            content["student"] = self.student.to_json()
            for name in ("ends", "alone", "orders"):
                content[name] = [patched.to_json() for patched in getattr(self, name)]
            content["order"] = None if self.order is None else asdict(self.order)
        return content


def inspect_paths(
    teacher: str | Path,
    student: str | Path | None,
    texts: Sequence[str | Path],
    *,
    every: int = 2,
    keep: Iterable[int] | None = None,
    **loading: Any,
) -> Inspection:
    """Inspect checkpoints: `inspect_family`, or without a student `inspect_teacher`.

    Args:
        teacher: A directory or a hub id, with or without `@revision`.
        student: The same, or None.
        texts: UTF-8 text files, all of which is read, in windows of at most 2048 tokens.
        every: As in `inspect_teacher`.
        keep: The teacher layers that the student keeps, where it has no `student_config.json`.
        **loading: `device`, `dtype` and more for `from_pretrained`.

    Raises:
        BoomerangError: A checkpoint or a text cannot be used.
    """
    trust = bool(loading.get("trust_remote_code", False))
    source = Source.open(teacher, trust_remote_code=trust)
    documents = read_documents(texts)
    tokenizer = source.tokenizer
    family = None
    if student is not None:
        other = Source.open(student, trust_remote_code=trust)
        family = Family.load(Sources.pair(source, other, keep=keep), **loading)
    model = source.model(**loading) if family is None else family.teacher
    window = fit_window(model.config)
    text = prepare(documents, tokenizer, window=window, stride=window)
    check_tokens(model, text.largest_token)
    return inspect_teacher(model, text, every) if family is None else inspect_family(family, text)


def inspect_teacher(teacher: PreTrainedModel, text: Text, every: int = 2) -> Inspection:
    """The states between a teacher's layers, and the layers to keep.

    Args:
        teacher: A live teacher in evaluation mode; left as it is.
        text: What it runs over.
        every: As in `LayerMap.every`: the advice keeps as many layers, in blocks as long.

    Raises:
        LayerMapError: `every` is out of range for the teacher.
    """
    usual = LayerMap.every(every, len(layer_stack(teacher)))
    states, _ = similarity(teacher, text)
    return Inspection(states, advise_keep(states.cosine.tolist(), usual))


def inspect_family(family: Family, text: Text) -> Inspection:
    """How well each student layer stands in for its block, and what patching it alone does.

    Every measured member runs over the whole text: those with one patched layer, and three along
    each sequential order (the first size above the student, the middle, the last below the
    teacher).

    Args:
        family: In memory, in evaluation mode; left as it is.
        text: What its models run over.
    """
    layers = family.layers
    states, across = similarity(family.teacher, text, family)
    largest = layers.max_patch - 1
    between = sorted({1, largest // 2 + 1, largest}) if largest >= 1 else []
    ends = [layers.member(patch=0), layers.member(blocks=range(layers.num_student_layers))]
    alone = [layers.member(blocks=[i]) for i in range(layers.num_student_layers)]
    orders = [layers.member(patch, order) for order in _ORDERS for patch in between]
    # Some members are in two lists, such as the first patch of an order.
    members = list(dict.fromkeys([*ends, *alone, *orders]))
    models = [family.model(member).eval() for member in members]
    found = dict(zip(members, predictions(models, text, reference=family.teacher), strict=True))
    advice = None
    if between:
        kl = {
            order: [found[member].kl for member in orders if member.order == order]
            for order in _ORDERS
        }
        advice = advise_order(kl, [found[member].kl for member in alone], found[ends[0]].kl)
    patched_ends, patched_alone, patched_orders = (
        tuple(Patched(member, found[member]) for member in some) for some in (ends, alone, orders)
    )
    return Inspection(
        teacher=states,
        keep=advise_keep(states.cosine.tolist(), layers),
        student=across,
        ends=patched_ends,
        alone=patched_alone,
        orders=patched_orders,
        order=advice,
    )
