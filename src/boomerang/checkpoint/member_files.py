"""The files of a member on disk: for each tensor, the bytes that it is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..layers import LayerMap, Member, Owner
from ..models.config import Config, member_config, set_dtype, text_config
from ..models.names import output_matrix_name, translate
from .compatibility import check_agreement
from .convert import FLOATS, pieces
from .directory import Checkpoint
from .header import DTYPE_BITS, Tensor

# torch's names of the dtypes a checkpoint can be written in, and safetensors' names of them.
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor of a new checkpoint, and the tensor that it is made from.

    Args:
        name: Its name in the new checkpoint.
        source: The tensor on disk.
        dtype: The dtype it is written in, as safetensors spells it.
    """

    name: str
    source: Tensor
    dtype: str

    @property
    def length(self) -> int:
        """Its size in bytes."""
        if self.dtype == self.source.dtype:
            return self.source.length
        return self.source.elements * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True)
class MemberFiles:
    """A member's checkpoint, known in full and not yet written.

    Args:
        member: The member.
        items: Its tensors, in the order of the model.
        config: Its `config.json`.
        tied: Whether embedding and output matrix are one.
        dtype: torch's name of the dtype of most numbers; None where no tensor has such a dtype.
    """

    member: Member
    items: tuple[Item, ...]
    config: Config
    tied: bool
    dtype: str | None

    @property
    def length(self) -> int:
        """The size of all tensors in bytes."""
        return sum(item.length for item in self.items)

    @property
    def parameters(self) -> int:
        """The numbers in all tensors; tied matrices count once."""
        return sum(item.source.elements for item in self.items)


def equal_on_disk(a: Item, b: Item) -> bool:
    """Whether two tensors are bitwise equal in the dtypes they are written in."""
    # Different ones differ in the first piece, so that no more is read.
    both = zip(pieces(a.source, a.dtype), pieces(b.source, b.dtype), strict=True)
    return all(x == y for x, y in both)


class FamilyFiles:
    """The checkpoints of a teacher and its student, and of every member made of them.

    Args:
        teacher: The teacher.
        student: The student.
        layers: The teacher layers that the student keeps.
        equal: Whether two matrices of one shape and dtype are the same.

    Raises:
        ArchitectureError: They are of different architecture, width or vocabulary.
        CheckpointError: A checkpoint contradicts itself.
        ConfigError: The teacher's config cannot be carried over to the student's layers.
    """

    def __init__(
        self,
        teacher: Checkpoint,
        student: Checkpoint,
        layers: LayerMap,
        *,
        equal: Callable[[Item, Item], bool] = equal_on_disk,
    ) -> None:
        check_agreement(teacher, student, layers)
        self.teacher = teacher
        self.student = student
        self.layers = layers
        self._equal = equal
        self._known: dict[tuple[Item, Item], bool] = {}
        self._main_dtype = teacher.dtype
        # transformers takes seconds to import, so it is asked only where a name is unusual.
        self._all_plain = all(map(_is_plain, teacher.tensors))
        self._words: dict[str, frozenset[str]] = {}

    def of(self, member: Member, dtype: str | None = None) -> MemberFiles:
        """The files of a member.

        Args:
            member: A member of the family of `layers`.
            dtype: torch's name of the dtype to write; by default each tensor has the teacher's.

        Raises:
            CheckpointError: The dtype is unknown, or the teacher is quantised.
            ConfigError: The config cannot be carried over to the member's layers.
        """
        target = self._target(dtype)
        items = self._outside(member.embedding, "embedding", target)
        stack = self.teacher.layout.stack
        counterparts = zip(member.sources, member.teacher_layers, strict=True)
        for position, ((owner, index), teacher_layer) in enumerate(counterparts):
            model = self.teacher.layer(teacher_layer)
            items += [
                Item(f"{stack}{position}.{rest}", tensor, self._dtype(tensor, model[rest], target))
                for rest, tensor in self._owner(owner).layer(index).items()
            ]
        items += self._outside(member.head, "head", target)
        table, output = self._matrices(member, target)
        tied = table is not None and output is not None and self._same(table, output)
        if output is not None and not tied:
            items.append(output)
        config = member_config(self.teacher.config, member.teacher_layers, tied=tied)
        spelled = {safetensors: torch for torch, safetensors in DTYPES.items()}
        written = dtype or spelled.get(self._main_dtype or "")
        if written is not None:
            set_dtype(config, written)
        return MemberFiles(member, tuple(items), config, tied, written)

    def _target(self, dtype: str | None) -> str | None:
        if dtype is None:
            return None
        if dtype not in DTYPES:
            raise CheckpointError(f"there is no dtype {dtype}", fix=f"use {', '.join(DTYPES)}")
        if self.teacher.is_quantised:
            raise CheckpointError(
                f"is quantised and cannot be converted to {dtype}",
                where=self.teacher.directory,
                fix="leave the dtype out",
            )
        return DTYPES[dtype]

    def _dtype(self, tensor: Tensor, model: Tensor, target: str | None) -> str:
        """The dtype to write: the one asked for, or that of the teacher's tensor of this name."""
        if tensor.dtype not in FLOATS or model.dtype not in FLOATS:
            return tensor.dtype
        if target is None:
            return model.dtype
        return "F32" if self._stays_wide(model, target) else target

    def _stays_wide(self, model: Tensor, target: str) -> bool:
        """Whether a float32 tensor of the teacher must stay float32.

        The teacher's class says so for some, such as the corrections of a router. A tensor that is
        neither a weight nor a bias and is float32 among narrower tensors is so on purpose.
        """
        if model.dtype != "F32" or target == "F32" or self._all_plain:
            return False
        if self._main_dtype != "F32" and not _is_plain(model.name):
            return True
        if target not in self._words:
            self._words[target] = _kept_words(self.teacher.config, target)
        return any(f".{word}." in f".{model.name}." for word in self._words[target])

    def _owner(self, owner: Owner) -> Checkpoint:
        return self.teacher if owner == "teacher" else self.student

    def _outside(self, owner: Owner, part: str, target: str | None) -> list[Item]:
        """The embedding or the head under the teacher's names, without the output matrix."""
        model, source = self.teacher, self._owner(owner)
        items = []
        for name in getattr(source.layout, part):
            if name != source.layout.output_matrix:
                new = translate(name, source.layout.stack, model.layout.stack)
                tensor = source.tensors[name]
                dtype = self._dtype(tensor, model.tensors[new], target)
                items.append(Item(new, tensor, dtype))
        return items

    def _matrices(self, member: Member, target: str | None) -> tuple[Item | None, Item | None]:
        """Embedding and output matrix: the two that may be one."""
        source, model = self._owner(member.embedding).token_table, self.teacher.token_table
        table = output = None
        if source is not None and model is not None:
            table = Item(model.name, source, self._dtype(source, model, target))
        source, model = self._owner(member.head).output_matrix, self.teacher.output_matrix
        if source is not None and model is not None:
            output = Item(self._output_name(), source, self._dtype(source, model, target))
        return table, output

    def _output_name(self) -> str:
        teacher, student = self.teacher.layout, self.student.layout
        if teacher.output_matrix is not None:
            return teacher.output_matrix
        if student.output_matrix is not None:
            return translate(student.output_matrix, student.stack, teacher.stack)
        return output_matrix_name(str(text_config(self.teacher.config).get("model_type")))

    def _same(self, table: Item, output: Item) -> bool:
        if table.source == output.source:
            return True
        if table.source.shape != output.source.shape or table.dtype != output.dtype:
            return False
        if (table, output) not in self._known:
            self._known[table, output] = self._equal(table, output)
        return self._known[table, output]


def _is_plain(name: str) -> bool:
    return name.endswith((".weight", ".bias"))


def _kept_words(config: Config, target: str) -> frozenset[str]:
    """Words in the names of tensors that the teacher's class always keeps in float32."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return frozenset()
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[kind]]
    words = set(model._keep_in_fp32_modules_strict or ())
    # More tensors stay wide beside float16 than beside bfloat16.
    if target == "F16":
        words |= set(model._keep_in_fp32_modules or ())
    return frozenset(words)
