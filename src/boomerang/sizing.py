"""How large every member of a family is, and which one fits what a user has.

Parameters and weights are those of the files that `build` would write. The KV cache follows from
the config. Whatever else a running model needs is estimated as `OVERHEAD` of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .checkpoint.header import DTYPE_BITS
from .checkpoint.member_files import DTYPES, Item, MemberFiles
from .checkpoint.sources import Sources
from .errors import ArchitectureError, BoomerangError, LayerMapError
from .layers import Member
from .models.config import Config, max_positions, text_config
from .models.kv_cache import LayerCache, layer_caches
from .models.names import is_matrix
from .units import show_bytes, show_count

# Activations, workspaces and what an allocator loses, as a share of the weights.
OVERHEAD = 0.1

DEFAULT_CONTEXT = 8192

# Tensors of routed experts; of routed and shared ones, and of the router.
_ROUTED = re.compile(r"(?:^|\.)experts\.")
_MIXTURE = re.compile(r"expert|moe|router")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k",
    "moe_k", "top_k_experts",
)  # fmt: skip


@dataclass(frozen=True)
class Cache:
    """What layers that keep equally many tokens add to the KV cache.

    Args:
        window: The most tokens kept; None for all of them.
        bytes_per_token: Of these layers together.
    """

    window: int | None
    bytes_per_token: int

    def bytes(self, context: int) -> int:
        """Bytes for one text of `context` tokens."""
        kept = context if self.window is None else min(context, self.window)
        return kept * self.bytes_per_token


@dataclass(frozen=True)
class Memory:
    """Bytes that a model needs to run.

    Args:
        weights: Of the weights.
        cache: Of the KV cache.
        workspace: For the rest, `OVERHEAD` of the weights.
    """

    weights: int
    cache: int
    workspace: int

    @classmethod
    def of(cls, weights: int, caches: Iterable[Cache], context: int, batch: int = 1) -> Memory:
        """The memory for `batch` texts of `context` tokens; the one place that computes it."""
        cache = batch * sum(one.bytes(context) for one in caches)
        return cls(weights, cache, int(OVERHEAD * weights))

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.weights + self.cache + self.workspace


@dataclass(frozen=True)
class Size:
    """The size of one member.

    Args:
        member: Which one.
        parameters: Numbers stored; tied matrices count once.
        parameters_without_embeddings: The same without embedding tables and output matrix.
        active_parameters: Those a token passes: with a mixture of experts, only the experts chosen
            for it. None where there are experts and the config does not say how many are chosen,
            or says what cannot be.
        bytes: Of the weights.
        cache: The KV cache of its layers for one text, by how many tokens they keep; None where the
            cache of the architecture is not known.
        kv_bytes_per_token: What the KV cache grows by with each token while that is within all
            sliding windows, or None.
        kv_bytes: The KV cache for the whole context and batch, or None.
        memory: Bytes needed to run it: weights, KV cache and `OVERHEAD` of the weights; or None.
    """

    member: Member
    parameters: int
    parameters_without_embeddings: int
    active_parameters: int | None
    bytes: int
    cache: tuple[Cache, ...] | None
    kv_bytes_per_token: int | None
    kv_bytes: int | None
    memory: int | None

    def row(self) -> dict[str, Any]:
        """The size as JSON."""
        numbers = {k: v for k, v in asdict(self).items() if k not in ("member", "cache")}
        member = self.member
        return {
            "patch": member.patch,
            "patched": list(member.patched),
            "num_layers": member.num_layers,
            **numbers,
        }


def member_sizes(
    sources: Sources,
    members: Iterable[Member],
    *,
    dtype: str | None = None,
    context: int | None = None,
    batch: int = 1,
) -> list[Size]:
    """The size of members of a family.

    Args:
        sources: Teacher and student.
        members: Which members.
        dtype: torch's name of the dtype of weights and cache; by default the teacher's.
        context: Tokens in the KV cache; by default `default_context` of the teacher.
        batch: Texts at once.

    Raises:
        BoomerangError: `context` or `batch` is less than one.
        CheckpointError, ArchitectureError, ConfigError: As `Sources.files`.
    """
    files = sources.files
    config = files.teacher.config
    context = default_context(config) if context is None else context
    for name, value in (("context", context), ("batch", batch)):
        if value < 1:
            raise BoomerangError(f"is {value}", where=name, fix="give at least 1")
    try:
        layers = layer_caches(config)
    except ArchitectureError:
        layers = None
    found = (files.of(member, dtype) for member in members)
    return [_size(each, config, layers, context, batch) for each in found]


def default_context(config: Config) -> int:
    """The text length that memory is stated for: 8192 tokens, or the most the model takes."""
    longest = max_positions(config)
    return DEFAULT_CONTEXT if longest is None else min(DEFAULT_CONTEXT, longest)


def choose(
    sizes: Sequence[Size],
    *,
    num_layers: int | None = None,
    params: int | None = None,
    memory: int | None = None,
) -> tuple[Size, str]:
    """The largest member within exactly one limit.

    Args:
        sizes: Members, from student to teacher.
        num_layers: The most layers.
        params: The most stored parameters.
        memory: The most bytes of memory to run it.

    Returns:
        Its size, and one line that says why it was chosen.

    Raises:
        LayerMapError: Nothing fits; the message names the smallest member's need.
        ArchitectureError: `memory` is given and the architecture's KV cache is not known.
    """
    spell: Callable[[int], str]
    if num_layers is not None:
        needs, limit = [size.member.num_layers for size in sizes], num_layers
        what, spell = "layers", str
    elif params is not None:
        needs, limit = [size.parameters for size in sizes], params
        what, spell = "parameters", show_count
    elif memory is not None:
        needs, limit = [_memory(size) for size in sizes], memory
        what, spell = "of memory", show_bytes
    else:
        raise AssertionError("no limit given")
    # The last of equals: members are listed from student to teacher.
    fitting = [i for i, need in enumerate(needs) if need <= limit]
    if not fitting:
        smallest = min(range(len(sizes)), key=needs.__getitem__)
        raise LayerMapError(
            f"nothing fits {spell(limit)} {what}: the smallest member "
            f"({sizes[smallest].member.num_layers} layers) needs {spell(needs[smallest])}"
        )
    best = max(fitting, key=lambda i: (sizes[i].member.num_layers, i))
    chosen = sizes[best].member
    line = (
        f"patch {chosen.patch} of {chosen.layers.max_patch}, {chosen.num_layers} of "
        f"{chosen.layers.num_layers} layers: needs {spell(needs[best])} of {spell(limit)} {what}"
    )
    if best + 1 < len(sizes):
        line += f", the next size {spell(needs[best + 1])}"
    return sizes[best], line


def _memory(size: Size) -> int:
    if size.memory is None:
        raise ArchitectureError(
            "the KV cache of this architecture is not known", fix="choose by parameters or layers"
        )
    return size.memory


def _size(
    files: MemberFiles,
    config: Config,
    layers: Sequence[LayerCache] | None,
    context: int,
    batch: int,
) -> Size:
    weights, parameters = files.length, files.parameters
    outside = sum(item.source.elements for item in files.items if is_matrix(item.name))
    cache = memory = None
    if layers is not None:
        cache = _cache([layers[layer] for layer in files.member.teacher_layers], files.dtype)
        memory = Memory.of(weights, cache, context, batch)
    return Size(
        member=files.member,
        parameters=parameters,
        parameters_without_embeddings=parameters - outside,
        active_parameters=_active(files, config, parameters),
        bytes=weights,
        cache=cache,
        kv_bytes_per_token=None if cache is None else sum(one.bytes_per_token for one in cache),
        kv_bytes=None if memory is None else memory.cache,
        memory=None if memory is None else memory.total,
    )


def _cache(layers: Iterable[LayerCache], dtype: str | None) -> tuple[Cache, ...]:
    width = DTYPE_BITS[DTYPES[dtype]] // 8 if dtype in DTYPES else 2
    per_token: dict[int | None, int] = {}
    for layer in layers:
        per_token[layer.window] = per_token.get(layer.window, 0) + width * layer.elements
    return tuple(Cache(window, count) for window, count in per_token.items())


def _active(files: MemberFiles, config: Config, parameters: int) -> int | None:
    text = text_config(config)
    experts = _count(text, _EXPERTS)
    mixed = any(_MIXTURE.search(item.name) for item in files.items)
    if experts == 1 or (not experts and not mixed):
        return parameters
    chosen = _count(text, _CHOSEN)
    # Experts that do nothing are among the chosen ones, how often depends on the text.
    if not experts or not chosen or chosen > experts or text.get("zero_expert_num"):
        return None
    routed = sum(item.source.elements for item in files.items if _is_routed(item, experts))
    if not routed or routed % experts:
        return None
    return parameters - routed // experts * (experts - chosen)


def _is_routed(item: Item, experts: int) -> bool:
    """Whether a tensor is of experts that are chosen: of one by its name, or of all in one."""
    shape = item.source.shape
    # A convolution of each channel by itself is no stack of matrices.
    stacked = len(shape) == 3 and shape[0] == experts and shape[1] > 1
    return stacked or _ROUTED.search(item.name) is not None


def _count(text: Config, keys: Iterable[str]) -> int:
    """A number above zero, or that of every layer in a list; zero where none or two are said."""
    parts = [part for part in (text, text.get("ffn_config")) if isinstance(part, dict)]
    said: set[int] = set()
    for value in (part.get(key) for part in parts for key in keys):
        entries = value if isinstance(value, list) else [value]
        said |= {entry for entry in entries if type(entry) is int and entry > 0}
    return said.pop() if len(said) == 1 else 0
