"""Policy and critic as PPO sees them: a pack of sequences in, a number per response token out.

Both are modules whose `forward` does all that touches weights, so that wrappers which gather sharded weights around a forward
pass find everything inside it.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from alignment.models.heads import head_is_plain
from alignment.ppo.logits import logprobs_and_entropy
from alignment.ppo.packing import Pack, response_states

BASE = ""  # the name of no adapter: the base as it is


class TokenNumbers(NamedTuple):
    """[R] each, fp32, over a pack's response tokens; None where not asked for."""

    logprobs: Tensor
    entropy: Tensor | None
    values: Tensor | None


class Policy(nn.Module):
    """A causal language model, or one adapter of it.

    adapter: which one this policy is, on a model that several share; None = the model has none. value_head: reads values from
    the policy's own trunk; with stop_gradient their loss does not reach the trunk.
    """

    def __init__(
        self,
        lm: Any,
        *,
        adapter: str | None = None,
        value_head: nn.Linear | None = None,
        stop_gradient: bool = False,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.lm, self.adapter, self.value_head = lm, adapter, value_head
        self.stop_gradient, self.autocast = stop_gradient, autocast
        self.plain_head = head_is_plain(plain(lm))

    @property
    def trunk(self) -> Any:
        return plain(self.lm).base_model

    def forward(self, pack: Pack, temperature: float, entropy: bool = False, values: bool = False) -> TokenNumbers:
        """log p of each response token at that temperature; if asked, the entropy there, and the value of the prefix before."""
        with _mixed(self, pack):
            activate(self.lm, self.adapter)
            if self.plain_head:
                states = response_states(self.trunk, pack)
                logits = plain(self.lm).get_output_embeddings()
            else:  # a model that does something to its logits: they come whole from its own forward pass
                states, logits = response_states(plain(self.lm), pack, logits=True), nn.Identity()
            numbers = logprobs_and_entropy(states, logits, pack.targets, temperature, entropy)
            return TokenNumbers(*numbers, self._values(states) if values else None)

    def _values(self, states: Tensor) -> Tensor:
        assert self.value_head is not None and self.plain_head, "this policy has no value head"
        return read_out(states.detach() if self.stop_gradient else states, self.value_head)


class Critic(nn.Module):
    """V(prefix) = head(last hidden state of the prefix), on a trunk of its own or on an adapter of a shared one."""

    def __init__(self, trunk: Any, head: nn.Linear, *, adapter: str | None = None, autocast: bool = False) -> None:
        super().__init__()
        self.trunk, self.head, self.adapter, self.autocast = trunk, head, adapter, autocast

    def forward(self, pack: Pack) -> Tensor:
        """Values [R], fp32, of the prefix before each response token."""
        with _mixed(self, pack):
            activate(self.trunk, self.adapter)
            return read_out(response_states(self.trunk, pack), self.head)


def read_out(states: Tensor, head: nn.Linear) -> Tensor:
    """[R, H] -> [R], in fp32: bf16 would leave values two decimals."""
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states.float(), head.weight.float(), head.bias.float())[:, 0]


def plain(lm: Any) -> Any:
    """The causal language model itself, without peft's wrapper around it. Adapters stay in its layers."""
    return lm.get_base_model() if hasattr(lm, "get_base_model") else lm


def activate(model: nn.Module, adapter: str | None) -> None:
    """From here on, backward passes included, the model computes with this adapter; BASE = with none.

    peft's own switch would also freeze the other adapters, whose gradients are still to be computed.
    """
    if adapter is None:
        return
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            layer._disable_adapters = adapter == BASE
            layer._active_adapter = [adapter] if adapter != BASE else layer._active_adapter


def _mixed(module: Policy | Critic, pack: Pack) -> contextlib.AbstractContextManager[Any]:
    device = pack.input_ids.device.type
    return torch.autocast(device, torch.bfloat16) if module.autocast else contextlib.nullcontext()
