"""Adam with fp32 master weights, a global gradient clip and a learning rate that falls linearly to 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alignment.parallel import ALONE, World
from alignment.ppo.sharding import is_sharded, shard_like, whole


class Optimizer:
    """Adam (betas .9 and .999, eps 1e-5, no weight decay: N+, detail 14).

    parameters: in fp32; they are cast to `dtype`, the one to compute in. If that is bf16, the optimiser keeps the true values
    in fp32, its masters: small updates would be lost in bf16's eight bits. With several processes gradients are summed over
    them before the clip.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        max_grad_norm: float,
        dtype: torch.dtype = torch.float32,
        world: World = ALONE,
    ) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._masters = self._parameters
        if dtype != torch.float32:
            self._masters = [parameter.detach().clone() for parameter in self._parameters]
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                parameter.data = parameter.data.to(dtype)
                parameter.register_post_accumulate_grad_hook(partial(_hand_over, master))
        self._learning_rate, self._max_grad_norm, self._world = learning_rate, max_grad_norm, world
        self._adam = torch.optim.AdamW(
            self._masters, lr=learning_rate, eps=1e-5, weight_decay=0.0, fused=not any(map(is_sharded, self._masters))
        )

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of gradients, fp32 masters and Adam's moments."""
        masters = [m for m, p in zip(self._masters, self._parameters, strict=True) if m is not p]
        return {
            "gradients": _bytes(self._parameters),
            "masters": 2 * _bytes(masters),  # with their gradients
            "moments": 2 * _bytes(self._masters),
        }

    def set_progress(self, done: float) -> None:
        """done: the share of the run that lies behind, 0 to 1. It alone decides the learning rate."""
        for group in self._adam.param_groups:
            group["lr"] = self._learning_rate * (1.0 - done)

    def clip(self) -> Tensor:
        """Scales the accumulated gradients of all processes to the largest norm allowed. Returns their norm before that."""
        self._world.sum_([m.grad for m in self._masters if m.grad is not None and not is_sharded(m)])
        return whole(nn.utils.clip_grad_norm_(self._masters, self._max_grad_norm))

    def step(self) -> None:
        """One update from the gradients, which are then cleared."""
        self._adam.step()
        self._adam.zero_grad()
        self._publish()

    def discard(self) -> None:
        """Clears the gradients without an update."""
        for tensor in (*self._masters, *self._parameters):
            tensor.grad = None

    @contextmanager
    def true_weights(self) -> Iterator[None]:
        """Inside, the model has its fp32 weights, for saving."""
        computing = [parameter.data for parameter in self._parameters]
        try:
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                parameter.data = master.detach()
            yield
        finally:
            for parameter, data in zip(self._parameters, computing, strict=True):
                parameter.data = data

    def state(self) -> dict[str, Any]:
        """Weights (the fp32 ones) and Adam's moments: all that the next step depends on. Whole tensors, also of sharded ones;
        then all processes must call it."""
        adam = self._adam.state_dict()
        moments = {i: {name: whole(value) for name, value in of.items()} for i, of in adam["state"].items()}
        return {"weights": [whole(master.detach()) for master in self._masters], "moments": moments}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for master, saved in zip(self._masters, state["weights"], strict=True):
                master.copy_(shard_like(saved, master))
        moments = {
            index: {name: shard_like(value, self._masters[index]) for name, value in of.items()}
            for index, of in state["moments"].items()
        }
        self._adam.load_state_dict({"state": moments, "param_groups": self._adam.state_dict()["param_groups"]})
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        for master, parameter in zip(self._masters, self._parameters, strict=True):
            if master is not parameter:
                parameter.copy_(master)


def _hand_over(master: Tensor, parameter: Tensor) -> None:
    """A pass's gradient goes to the fp32 master at once: passes summed in bf16 would depend on how many there are."""
    assert parameter.grad is not None
    gradient = parameter.grad.float()
    master.grad = gradient if master.grad is None else master.grad.add_(gradient)
    parameter.grad = None


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Floating-point parameters only. `model.to(dtype)` would cast the rotary frequencies too, and shift every position."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
