"""Teacher and student sharded over the processes, each layer gathered when it runs (FSDP2).

This uses PyTorch's `fully_shard`, because accelerate silently leaves sharding out on CPUs, and
refuses a second model. Each layer is a group of its own. The rest of a model is one more group, so
that a tied embedding and head stay one matrix.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import RecipeError
from ..models.parts import layer_stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

    from .module import DistillModule

KEY = "shard"

# By these `accelerate launch` asks for sharding of its own.
_LAUNCHED = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)


def refuse_other_sharding() -> None:
    """Refuse a launcher that asks for another kind of sharding.

    Raises:
        RecipeError: It does.
    """
    for name in _LAUNCHED:
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            raise RecipeError(
                "asks for sharding of its own, which does not shard the teacher",
                where=f"accelerate launch ({name})",
                fix="launch without it and set `shard: true` in the recipe",
            )


def check_possible(args: TrainingArguments) -> None:
    """Refuse sharding that cannot work, before anything is loaded.

    Raises:
        RecipeError: There is one process only, or the precision is fp16.
    """
    if args.world_size < 2:
        raise RecipeError(
            "needs several processes, and this is the only one",
            where=KEY,
            fix="start it with torchrun --nproc-per-node N -m boomerang distill ...",
        )
    if args.fp16:
        # Its loss scaling would have to agree on infinite gradients over all processes.
        raise RecipeError("cannot go with fp16", where=KEY, fix="set training.bf16")


def shard(module: DistillModule, args: TrainingArguments) -> None:
    """Shard the parameters of both models over all processes, in place.

    A parameter, its gradient and its optimizer state then are `DTensor`s. Models on the CPU move to
    the device layer by layer. Afterwards the module must be run by its own call.

    Raises:
        RecipeError: This device or the backend of its processes does not allow it.
    """
    # As autocast does, and half the bytes to gather; gradients are summed in fp32.
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if args.bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    try:
        mesh = init_device_mesh(args.device.type, (args.world_size,))
        for layer in layer_stack(module.student):
            fully_shard(layer, mesh=mesh, mp_policy=precision)
        for layer in layer_stack(module.teacher):
            fully_shard(layer, mesh=mesh)
        fully_shard(module, mesh=mesh)
        fully_shard(module.teacher, mesh=mesh)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, NotImplementedError) as error:
        backend = dist.get_backend() if dist.is_initialized() else "no process group"
        raise RecipeError(
            f"cannot be done on {args.device.type} with {backend} ({' '.join(str(error).split())})",
            where=KEY,
        ) from error
    _gather_with(module, args.device)


def is_sharded(module: nn.Module) -> bool:
    """Whether a module has parameters that are sharded over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; all of it if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_weights(model: PreTrainedModel, keep: bool) -> dict[str, Tensor]:
    """The state dict of a sharded model with whole tensors, on the CPU.

    Every process must call it; those without `keep` get an empty dict.
    """
    whole: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    # The parameters themselves: what is one matrix must be one afterwards.
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in made:
            full = value.full_tensor() if isinstance(value, DTensor) else value
            made[id(value)] = full.detach().cpu() if keep else full.new_empty(0)
        whole[name] = made[id(value)]
    return whole if keep else {}


@torch.no_grad()
def load_whole_weights(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Give a sharded model the values of a whole state dict, the same in every process."""
    for name, value in model.state_dict(keep_vars=True).items():
        whole = weights[name].to(value.device, value.dtype)
        if isinstance(value, DTensor):
            # Every process has the whole tensor, so nothing needs to be sent.
            mesh, placements = value.device_mesh, value.placements
            whole = distribute_tensor(whole, mesh, placements, src_data_rank=None)
        value.copy_(whole)


def _gather_with(module: DistillModule, device: torch.device) -> None:
    """Gather the teacher's embedding and head while the module runs: members use them directly."""
    student, teacher = cast(FSDPModule, module), cast(FSDPModule, module.teacher)

    def gather(*_: Any) -> None:
        teacher.unshard()

    def release(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        goes_back = torch.is_grad_enabled()
        if not goes_back:
            student.reshard()
        # The backward pass of a mirrored batch needs them again, and releases them itself.
        if not (goes_back and module.route(kwargs.get("step", 0)).name == "mirror"):
            teacher.reshard()

    module.register_forward_pre_hook(gather)
    module.register_forward_hook(release, with_kwargs=True)
    # At its first pass FSDP learns what is the root. It must not be one of the layers, which
    # members run on their own.
    with torch.no_grad():
        token = torch.zeros(1, 1, dtype=torch.long, device=device)
        module.teacher(token, attention_mask=torch.ones_like(token), use_cache=False)
    teacher.reshard()
