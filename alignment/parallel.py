"""Several processes that carry out one stage together: who am I, what is my share, and the few collectives that stages use.

Every function does nothing, at no cost, where there is one process: a stage is written once for any number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_BUCKET_BYTES = 64 * 2**20  # what a sum holds besides the tensors themselves
# The launcher ends all ranks within seconds of one's death; this bounds the wait where it cannot see it, on another machine.
# It has to exceed the longest that ranks may wait for one of them: rank 0 that measures a large model along its training.
_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """`size` processes, of which this is number `rank`. Collectives are called by all ranks, in the same order."""

    rank: int
    size: int

    @property
    def main(self) -> bool:
        """Whether this is the one rank that writes files."""
        return self.rank == 0

    def first(self, count: int) -> int:
        """Index of the first of `count` items that is this rank's; `rank = size` would give `count`."""
        return self.rank * (count // self.size) + min(self.rank, count % self.size)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's contiguous part. Parts follow each other in rank order and differ by at most one item."""
        count = len(items) // self.size + (self.rank < len(items) % self.size)
        first = self.first(len(items))
        return items[first : first + count]

    def gather(self, items: Sequence[T]) -> list[T]:
        """All ranks' items in rank order, on every rank. Items travel by pickle between the processes of one run."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks. Ranks give tensors of the same shapes and dtypes in the same order."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                dist.all_reduce(bucket[0])
                continue
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def broadcast(self, value: T) -> T:
        """Rank 0's value; what the other ranks give is not looked at."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.main else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


ALONE = World(0, 1)


def world() -> World:
    """The processes that this one belongs to; itself alone where none were joined."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return ALONE


def join_world(device: str) -> World:
    """Meet the other ranks that torchrun has started (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT in the
    environment): gloo for `cpu`; for `cuda` nccl between devices, each rank on its own, and gloo for what lies on the host."""
    on_gpu = device.startswith("cuda")
    if on_gpu:  # where a rank sees only its own device, that is number 0
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT)
    return world()


def leave_world() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and device, together at most `_BUCKET_BYTES`; a larger tensor stands alone."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        alike = bucket and (tensor.dtype, tensor.device) == (bucket[0].dtype, bucket[0].device)
        if bucket and not (alike and filled + tensor.nbytes <= _BUCKET_BYTES):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket
