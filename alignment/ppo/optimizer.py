"""Adam with fp32 master weights, a global gradient clip and a learning rate that falls linearly to 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignment.core.config import Precision


class Optimizer:
    """Adam on one model (betas .9 and .999, eps 1e-5, no weight decay: N+, detail 14).

    With precision bf16 the model computes in bf16 and the optimiser keeps the true weights in fp32: small updates would be
    lost in bf16's eight bits. The model is handed over in fp32 and cast here.
    """

    def __init__(self, model: nn.Module, learning_rate: float, max_grad_norm: float, precision: Precision) -> None:
        self._parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._masters = self._parameters
        if precision == "bf16":
            self._masters = [parameter.detach().clone() for parameter in self._parameters]
            cast_parameters(model, torch.bfloat16)
        self._learning_rate, self._max_grad_norm = learning_rate, max_grad_norm
        device = self._masters[0].device.type
        self._adam = torch.optim.AdamW(
            self._masters, lr=learning_rate, eps=1e-5, weight_decay=0.0, fused=device in ("cpu", "cuda")
        )

    def set_progress(self, done: float) -> None:
        """done: the share of the run that lies behind, 0 to 1. It alone decides the learning rate."""
        for group in self._adam.param_groups:
            group["lr"] = self._learning_rate * (1.0 - done)

    def step(self) -> Tensor:
        """One update from the accumulated gradients, which are then cleared. Returns their norm before the clip."""
        if self._masters is not self._parameters:
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        norm = nn.utils.clip_grad_norm_(self._masters, self._max_grad_norm)
        self._adam.step()
        self._adam.zero_grad()
        self._publish()
        return norm

    def use_masters(self) -> None:
        """Give the model its fp32 weights, for saving. No more steps after this."""
        for master, parameter in zip(self._masters, self._parameters, strict=True):
            parameter.data = master.detach()

    def state(self) -> dict[str, Any]:
        """Weights (the fp32 ones) and Adam's moments: all that the next step depends on."""
        return {"weights": [master.detach() for master in self._masters], "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for master, saved in zip(self._masters, state["weights"], strict=True):
                master.copy_(saved)
        self._adam.load_state_dict(state["adam"])
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        if self._masters is not self._parameters:
            for master, parameter in zip(self._masters, self._parameters, strict=True):
                parameter.copy_(master)


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Parameters only. `model.to(dtype)` would cast the rotary frequencies too, and shift every position."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
