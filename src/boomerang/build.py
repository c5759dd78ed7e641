"""Writes a member of the family as a standard checkpoint, copied from file to file.

It imports neither torch nor transformers. Unless the dtype changes, the kernel copies the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .callable_module import make_callable
from .errors import LayerMapError
from .layers import Member, Order

if TYPE_CHECKING:
    from .checkpoint.member_files import MemberFiles
    from .checkpoint.sources import Sources

# transformers' own: nearly every model is one file.
MAX_SHARD_SIZE = "50GB"

# Called with the size of the weights in bytes; gives a context whose value takes what was written.
Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


def build(
    teacher: str | Path,
    student: str | Path,
    out: str | Path,
    *,
    patch: int | None = None,
    blocks: Iterable[int] | None = None,
    num_layers: int | None = None,
    params: int | float | str | None = None,
    memory: int | float | str | None = None,
    order: Order | None = None,
    context: int | None = None,
    batch: int = 1,
    dtype: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    overwrite: bool = False,
    push_to_hub: str | None = None,
    keep: Iterable[int] | None = None,
) -> Path:
    """Write one member of a family as a checkpoint that plain transformers opens.

    The member is chosen by exactly one of `patch`, `blocks`, `num_layers`, `params` and `memory`;
    the last three take the largest that fits. Embedding and output matrix are tied exactly when
    they are bitwise equal in the dtype written. The same arguments give the same bytes.
    `boomerang.json` names local sources by their absolute paths, and is uploaded with the rest.

    Args:
        teacher: A directory, or a hub id (`owner/name`) with or without `@revision`.
        student: The same.
        out: The directory to write.
        patch: k, as in `LayerMap.member`.
        blocks: The student layers to patch.
        num_layers: The most layers.
        params: The most stored parameters: a number, or such as `"3.2B"`.
        memory: The most memory to run it, in bytes or such as `"8GiB"`: weights, KV cache and the
            overhead stated in `boomerang.sizing`.
        order: As in `LayerMap.order`; by default the one recorded with the student, else the
            paper's.
        context: Tokens in the KV cache, for `memory`; by default 8192 or the most the model takes.
        batch: Texts at once, for `memory`.
        dtype: `"bfloat16"`, `"float16"` or `"float32"`; by default each tensor has the teacher's.
        max_shard_size: The most bytes of weights in a file, or such as `"5GB"`.
        overwrite: Replace an `out` that this package made.
        push_to_hub: A repository on the hub (`owner/name`) to upload the result to as well.
        keep: The teacher layers that the student keeps, where it has no `student_config.json`.

    Returns:
        `out`, with weights, `config.json`, the teacher's generation config, tokenizer and processor
        files, `boomerang.json` and a model card. It is complete or not there at all.

    Raises:
        CheckpointError: A checkpoint is missing, broken, or not what it claims to be, or the kept
            layers are not known.
        LayerMapError: Not exactly one choice, no such member, or nothing fits.
        ArchitectureError, ConfigError: Teacher and student do not fit, or are not supported.
        OutputError: `out` is not empty; is, holds or lies inside a source; or cannot be written.
            `push_to_hub` is not a valid name of a repository.
    """
    from .checkpoint.hub import check_repository, push
    from .checkpoint.sources import Sources

    if push_to_hub is not None:
        check_repository(push_to_hub)
    sources = Sources.open(teacher, student, keep=keep)
    member, _ = choose_member(
        sources, patch=patch, blocks=blocks, num_layers=num_layers, params=params, memory=memory,
        order=order, context=context, batch=batch, dtype=dtype,
    )  # fmt: skip
    writer = MemberWriter(sources, order, dtype, max_shard_size)
    writer.write(member, Path(out), overwrite=overwrite)
    if push_to_hub is not None:
        push(Path(out), push_to_hub)
    return Path(out)


def choose_member(
    sources: Sources,
    *,
    patch: int | None = None,
    blocks: Iterable[int] | None = None,
    num_layers: int | None = None,
    params: int | float | str | None = None,
    memory: int | float | str | None = None,
    order: Order | None = None,
    context: int | None = None,
    batch: int = 1,
    dtype: str | None = None,
) -> tuple[Member, str]:
    """Returns the member that `build` would choose, and one line that says why.

    Raises:
        LayerMapError: Not exactly one choice, no such member, or nothing fits.
    """
    from .sizing import choose, member_sizes
    from .units import parse_bytes, parse_count

    choices = {
        "patch": patch, "blocks": blocks, "layers": num_layers, "params": params, "memory": memory
    }  # fmt: skip
    given = [name for name, value in choices.items() if value is not None]
    if len(given) != 1:
        raise LayerMapError(
            f"a member is chosen by exactly one of {', '.join(choices)}",
            fix=f"given are {' and '.join(given)}" if given else "none is given",
        )
    if patch is not None or blocks is not None:
        along = sources.order if order is None else order
        member = sources.layers.member(patch, along, blocks=blocks)
        return member, (
            f"patch {member.patch} of {member.layers.max_patch}, {member.num_layers} of "
            f"{member.layers.num_layers} layers: as asked"
        )
    members = sources.members(order)
    sizes = member_sizes(sources, members, dtype=dtype, context=context, batch=batch)
    limits = {
        "num_layers": num_layers,
        "params": None if params is None else parse_count(params, "params"),
        "memory": None if memory is None else parse_bytes(memory, "memory"),
    }
    size, line = choose(sizes, **limits)
    return size.member, line


@dataclass(frozen=True)
class MemberWriter:
    """Writes members of one family as checkpoints, all with the same options.

    Args:
        sources: Teacher and student.
        order: As in `build`, like all that follow.
        dtype: Of the weights.
        max_shard_size: The most bytes of weights in a file.
    """

    sources: Sources
    order: Order | None = None
    dtype: str | None = None
    max_shard_size: int | str = MAX_SHARD_SIZE

    def write(
        self,
        member: Member,
        out: Path,
        *,
        overwrite: bool = False,
        progress: Progress = lambda total: nullcontext(lambda written: None),
    ) -> None:
        """Write a member.

        Raises:
            CheckpointError, ConfigError, OutputError: As `build`.
        """
        from .checkpoint.card import licence, model_card
        from .checkpoint.extra_files import copy_extra_files, find_extra_files
        from .checkpoint.output import check_apart, check_space, new_directory, write_json
        from .checkpoint.record import FILE_NAME
        from .checkpoint.write import write_weights

        check_apart(out, *self.sources.directories)
        files = self.sources.files.of(member, self.dtype)
        # Everything that a source can be refused for comes before the first byte is written.
        source = self.sources.teacher.directory
        same_layers = member.num_layers == self.sources.layers.num_layers
        companions = find_extra_files(source, same_layers=same_layers)
        card = model_card(files, *self.sources.identities, licence(source))
        record = self._record(files)
        check_space(out, files.length)
        with new_directory(out, overwrite=overwrite) as partial:
            with progress(files.length) as report:
                write_weights(partial, files.items, self._shard_size, report)
            write_json(partial / "config.json", files.config)
            write_json(partial / FILE_NAME, record)
            (partial / "README.md").write_text(card, encoding="utf-8")
            copy_extra_files(companions, partial)

    def is_written(self, member: Member, out: Path) -> bool:
        """Whether `out` is complete and holds what `write` would write, by its `boomerang.json`."""
        from .checkpoint.record import has_record

        return has_record(out, lambda: self._record(self.sources.files.of(member, self.dtype)))

    def check_space(self, members: Iterable[Member], out: Path) -> None:
        """Raises `OutputError` if the disk has too little space for all of these members."""
        from .checkpoint.output import check_space

        check_space(out, sum(self.sources.files.of(m, self.dtype).length for m in members))

    @property
    def _shard_size(self) -> int:
        from .units import parse_bytes

        return parse_bytes(self.max_shard_size, "max_shard_size")

    def _record(self, files: MemberFiles) -> dict[str, Any]:
        from .checkpoint.record import record_content

        given, sources = self.order, self.sources
        return record_content(
            files,
            *sources.identities,
            order=sources.order if given is None else given,
            order_source=sources.order_source if given is None else "given",
            dtype=self.dtype,
            max_shard_size=self._shard_size,
        )


def member_directory(sources: Sources, member: Member, out: Path) -> Path:
    """Where in `out` a member of a whole family goes: by the teacher's name and its layers."""
    return out / f"{sources.teacher.name}-{member.num_layers}L"


make_callable(__name__)
