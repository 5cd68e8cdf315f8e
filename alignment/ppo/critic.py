"""The critic: a language model's trunk with a linear read-out of the value at every token."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignment.ppo.packing import Pack, response_states


class Critic(nn.Module):
    """V(prefix) = head(last hidden state of the prefix). A model of its own: it shares no weights with the policy."""

    def __init__(self, backbone: Any, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, pack: Pack) -> Tensor:
        """Values [R], fp32, of the prefix before each response token."""
        states = response_states(self.backbone, pack).float()  # bf16 would leave values two decimals
        return F.linear(states, self.head.weight.float(), self.head.bias.float())[:, 0]


def critic_from_reward_model(model: Any, mean: float = 0.0, deviation: float = 1.0) -> Critic:
    """A critic that starts as the reward model: it already knows what a good answer looks like (N+, detail 20).

    mean, deviation: those by which the scorer normalises the reward; built into the head, so that values start on the scale
    of the scores.
    """
    score = model.score
    head = nn.Linear(score.in_features, 1).to(score.weight)
    with torch.no_grad():
        head.weight.copy_(score.weight / deviation)
        head.bias.fill_(-mean / deviation)
    return Critic(model.base_model, head)


def critic_from_policy(policy: Any, seed: int) -> Critic:
    """A critic on a copy of the policy's trunk; the head drawn with deviation 1 / sqrt(hidden + 1), bias 0 (N+, detail 11)."""
    backbone = copy.deepcopy(policy.base_model)
    width = backbone.config.get_text_config().hidden_size
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, 1)
    with torch.no_grad():
        head.weight.copy_(torch.randn(1, width, generator=generator) / (width + 1) ** 0.5)
        head.bias.zero_()
    return Critic(backbone, head.to(next(backbone.parameters())))
