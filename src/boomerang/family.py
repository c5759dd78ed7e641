"""A teacher, its student, and every model between them, in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .checkpoint.sources import Sources
from .errors import ArchitectureError, LayerMapError
from .layers import LayerMap, Member, Order
from .models.assembly import assemble, is_tied, same_tensor
from .models.config import paper_order
from .models.parts import find_parts, layer_stack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Family:
    """The family of models that one teacher and one student span.

    The two models are left as they are; `from_pretrained`, which owns what it loads, also drops
    every student tensor outside the layers that equals the teacher's.

    Members are made on demand over the two models' own tensors: making one costs milliseconds and
    no weight memory, and a change of the student's weights shows in every member at once.

    Args:
        teacher: The live teacher; quantised or spread over devices as the caller likes.
        student: The live student.
        layers: The teacher layers the student was cut from.
        order: The default order of patching; by default the paper's for its type.

    Raises:
        ArchitectureError: The two models are of different architecture, width or vocabulary.
        LayerMapError: They do not have the numbers of layers that `layers` is for.
        ConfigError: The architecture is not supported.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        layers: LayerMap,
        *,
        order: Order | None = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.layers = layers
        self.order: Order = paper_order(teacher.config.to_dict()) if order is None else order
        self._ties: dict[tuple[object, ...], bool] = {}
        _check_pair(teacher, student, layers)

    @classmethod
    def from_pretrained(
        cls,
        teacher: str | Path,
        student: str | Path,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        *,
        keep: Iterable[int] | None = None,
        **model_kwargs: Any,
    ) -> Family:
        """Load both models from safetensors.

        Args:
            teacher: A directory, or a hub id with or without `@revision`.
            student: The same.
            dtype: Of both models; by default the teacher's own, whatever the student was saved in.
            device: For both models; by default the CPU.
            keep: The teacher layers that the student keeps, where it has no `student_config.json`.
            **model_kwargs: For `from_pretrained`, such as `attn_implementation` or `device_map`.

        Raises:
            CheckpointError: A model cannot be read, or the kept layers are not known.
            ArchitectureError, LayerMapError, ConfigError: As for `Family`.
        """
        trust = bool(model_kwargs.get("trust_remote_code", False))
        sources = Sources.open(teacher, student, keep=keep, trust_remote_code=trust)
        return cls.load(sources, dtype=dtype, device=device, **model_kwargs)

    @classmethod
    def load(
        cls, sources: Sources, *, dtype: torch.dtype | str | None = None, **model_kwargs: Any
    ) -> Family:
        """Load a teacher and a student that are found already; else as `from_pretrained`."""
        assert sources.student is not None
        teacher = sources.teacher.model(dtype=dtype, **model_kwargs)
        student = sources.student.model(**model_kwargs | {"dtype": teacher.dtype})
        family = cls(teacher, student, sources.layers, order=sources.order)
        _share_equal_tensors(teacher, student)
        return family

    def member(
        self,
        patch: int | Member | None = None,
        order: Order | None = None,
        *,
        blocks: Iterable[int] | None = None,
    ) -> Member:
        """The plan of a member; as `LayerMap.member`, with the family's own default order."""
        if isinstance(patch, Member):
            if patch.layers != self.layers:
                raise LayerMapError("the member belongs to a family with other kept layers")
            return patch
        return self.layers.member(patch, self.order if order is None else order, blocks=blocks)

    def model(
        self,
        patch: int | Member | None = None,
        order: Order | None = None,
        *,
        blocks: Iterable[int] | None = None,
    ) -> PreTrainedModel:
        """A member as a transformers model whose tensors are the teacher's and student's own.

        The model has its own config, layer indices and KV cache, so several members can be used
        side by side. Embedding and head are tied exactly when they are bitwise equal.

        Args:
            patch: k, or a `Member`.
            order: As in `LayerMap.order`; by default the family's.
            blocks: The student layers to patch, instead of `patch`.

        Returns:
            A `PreTrainedModel` of the checkpoint's own class, in the teacher's training mode.

        Raises:
            LayerMapError: There is no such member.
        """
        member = self.member(patch, order, blocks=blocks)
        owners = {"teacher": self.teacher, "student": self.student}
        return assemble(
            self.teacher,
            [(owners[owner], index) for owner, index in member.sources],
            member.teacher_layers,
            embedding=owners[member.embedding],
            head=owners[member.head],
            tied=self._is_tied(owners[member.embedding], owners[member.head]),
        )

    def _is_tied(self, embedding: PreTrainedModel, head: PreTrainedModel) -> bool:
        """`is_tied`, compared again only when one of the matrices has changed."""
        matrices = embedding.get_input_embeddings(), head.get_output_embeddings()
        key = tuple(_state(getattr(matrix, "weight", None)) for matrix in matrices)
        if key not in self._ties:
            self._ties[key] = is_tied(embedding, head)
        return self._ties[key]


def _state(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    """What tells one tensor from another, and from itself before it was written to."""
    if tensor is None:
        return None
    return (id(tensor), tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version)


def _check_pair(teacher: PreTrainedModel, student: PreTrainedModel, layers: LayerMap) -> None:
    if type(teacher) is not type(student):
        raise ArchitectureError(
            f"the student is a {type(student).__name__} and the teacher a {type(teacher).__name__}"
        )
    stacks = {"teacher": layer_stack(teacher), "student": layer_stack(student)}
    expected = {"teacher": layers.num_layers, "student": layers.num_student_layers}
    for who, stack in stacks.items():
        if len(stack) != expected[who]:
            raise LayerMapError(
                f"the {who} has {len(stack)} layers and the kept layers make it {expected[who]}"
            )
    for i, kept in enumerate(layers.kept):
        _check_same_shapes(stacks["teacher"][kept], stacks["student"][i], f"student layer {i}")
    parts = find_parts(teacher)
    for path in (*parts.embedding, *parts.head):
        _check_same_shapes(teacher.get_submodule(path), student.get_submodule(path), path)


def _check_same_shapes(teacher: nn.Module, student: nn.Module, where: str) -> None:
    theirs = {name: tensor.shape for name, tensor in teacher.state_dict(keep_vars=True).items()}
    ours = {name: tensor.shape for name, tensor in student.state_dict(keep_vars=True).items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ArchitectureError(
                f"{name} is {_shape(ours.get(name))} in the student and {_shape(theirs.get(name))} "
                "in the teacher",
                where=where,
            )


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape))


def _share_equal_tensors(teacher: PreTrainedModel, student: PreTrainedModel) -> None:
    parts = find_parts(teacher)
    for path in (*parts.embedding, *parts.head):
        for name, module in student.get_submodule(path).named_modules():
            twin = teacher.get_submodule(f"{path}.{name}" if name else path)
            for key, parameter in module.named_parameters(recurse=False):
                theirs = getattr(twin, key)
                if same_tensor(parameter, theirs):
                    setattr(module, key, theirs)
