"""A member of the family as a standard checkpoint on disk, copied from file to file.

Neither torch nor transformers is imported; without a change of dtype, no weight passes through this
process's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .callable_module import make_callable
from .errors import LayerMapError
from .layers import Member, Order

if TYPE_CHECKING:
    from .checkpoint.member_plan import Plan
    from .checkpoint.sources import FamilyOnDisk

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
        OutputError: `out` is not empty, holds a source, or cannot be written; `push_to_hub` can be
            no repository.
    """
    from .checkpoint.hub import check_repository, push
    from .checkpoint.sources import FamilyOnDisk

    if push_to_hub is not None:
        check_repository(push_to_hub)
    family = FamilyOnDisk.open(teacher, student, keep=keep)
    member, _ = choose_member(
        family,
        patch=patch,
        blocks=blocks,
        num_layers=num_layers,
        params=params,
        memory=memory,
        order=order,
        context=context,
        batch=batch,
        dtype=dtype,
    )
    write_member(
        family,
        member,
        Path(out),
        order=order,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )
    if push_to_hub is not None:
        push(Path(out), push_to_hub)
    return Path(out)


def choose_member(
    family: FamilyOnDisk,
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
    """The member that arguments as those of `build` choose, and one line that says why.

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
        chosen_order = family.order if order is None else order
        member = family.layers.member(patch, chosen_order, blocks=blocks)
        return member, (
            f"patch {member.patch} of {member.layers.max_patch}, {member.num_layers} of "
            f"{member.layers.num_layers} layers: as asked"
        )
    sizes = member_sizes(
        family.pair, family.members(order), dtype=dtype, context=context, batch=batch
    )
    limits = {
        "num_layers": num_layers,
        "params": None if params is None else parse_count(params, "params"),
        "memory": None if memory is None else parse_bytes(memory, "memory"),
    }
    size, line = choose(sizes, **limits)
    return size.member, line


def write_member(
    family: FamilyOnDisk,
    member: Member,
    out: Path,
    *,
    order: Order | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a member; the arguments are those of `build`.

    Raises:
        CheckpointError, ConfigError, OutputError: As `build`.
    """
    from .checkpoint.card import licence, model_card
    from .checkpoint.companions import copy_companions, find_companions
    from .checkpoint.output import check_apart, check_space, new_directory, write_json
    from .checkpoint.record import write_record
    from .checkpoint.write import write_weights
    from .units import parse_bytes

    shard_size = parse_bytes(max_shard_size, "max_shard_size")
    source = family.pair.teacher.directory
    check_apart(out, *family.directories)
    plan = family.pair.plan(member, dtype)
    # Whatever a source can be refused for is found before anything is written.
    same = member.num_layers == family.pair.layers.num_layers
    companions = find_companions(source, same_layers=same)
    card = model_card(plan, *family.identities(), licence(source))
    record = _record(family, plan, order, dtype, shard_size)
    check_space(out, plan.length)
    with new_directory(out, overwrite=overwrite) as partial:
        with progress(plan.length) if progress else nullcontext(_ignore) as report:
            write_weights(partial, plan.items, shard_size, report)
        write_json(partial / "config.json", plan.config)
        write_record(partial, record)
        (partial / "README.md").write_text(card, encoding="utf-8")
        copy_companions(companions, partial)


def is_written(
    family: FamilyOnDisk,
    member: Member,
    out: Path,
    *,
    order: Order | None = None,
    dtype: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> bool:
    """Whether `out` is what `write_member` would write, from the same sources and options.

    It is told by `boomerang.json`: a directory that has one is complete, for it got its name at the
    end.

    Raises:
        CheckpointError, ConfigError: As `build`.
    """
    from .checkpoint.record import FILE_NAME, has_record
    from .units import parse_bytes

    if not (out / FILE_NAME).exists():
        return False
    plan = family.pair.plan(member, dtype)
    shard_size = parse_bytes(max_shard_size, "max_shard_size")
    return has_record(out, _record(family, plan, order, dtype, shard_size))


def _record(
    family: FamilyOnDisk, plan: Plan, order: Order | None, dtype: str | None, shard_size: int
) -> dict[str, Any]:
    from .checkpoint.record import record_content
    from .checkpoint.sources import recorded_order

    along = recorded_order(plan.member, family.order if order is None else order)
    source = "given" if order is not None else family.pairing.order_source
    return record_content(
        plan,
        *family.identities(),
        order=along,
        order_source=None if along is None else source,
        dtype=dtype,
        max_shard_size=shard_size,
    )


def check_room(
    family: FamilyOnDisk, members: Iterable[Member], out: Path, dtype: str | None = None
) -> None:
    """Refuse several members for whose weights together the disk has no room.

    Args:
        family: Whose members they are.
        members: Which ones are to be written.
        out: The directory they go to.
        dtype: As in `build`.

    Raises:
        CheckpointError, ConfigError: As `build`.
        OutputError: Less is free.
    """
    from .checkpoint.output import check_space

    check_space(out, sum(family.pair.plan(member, dtype).length for member in members))


def member_directory(family: FamilyOnDisk, member: Member, out: Path) -> Path:
    """Where in `out` a member of a whole family goes: by the teacher's name and its layers."""
    return out / f"{family.name}-{member.num_layers}L"


def _ignore(_: int) -> None:
    pass


make_callable(__name__)
