"""Weights spread over processes by torch's fully_shard (FSDP2): what ZeRO-2 and ZeRO-3 do, without another library."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    module: nn.Module, trunk: Any, sharding: Literal["gradients", "full"], dtype: torch.dtype, device: str, size: int
) -> None:
    """Each process keeps its part of every weight, of its gradient and of the optimiser's moments, all in fp32; layers are
    gathered, in `dtype`, for the moment they compute. `full` drops them again after the forward pass, `gradients` keeps them
    until the backward pass is over."""
    mesh = init_device_mesh(device, (size,))
    # Output stays as computed: sums over tokens are in fp32 already.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in [part for part in trunk.modules() if type(part).__name__ in (trunk._no_split_modules or ())]:
        fully_shard(layer, mesh=mesh, reshard_after_forward=sharding == "full", mp_policy=policy)
    fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy)


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def whole(tensor: Any) -> Any:
    """The full tensor, gathered if need be; then all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Any, like: Tensor) -> Any:
    """This process's part of a whole tensor, laid out as `like`. Scalars and the like come back as they are."""
    if isinstance(like, DTensor) and isinstance(tensor, Tensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor
