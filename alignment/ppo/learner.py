"""What PPO trains, and what it is held against."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.generation.engine import Completion
from alignment.models.load import DTYPES, load_causal_lm, turn_dropout_off
from alignment.models.reward_model import load_reward_model
from alignment.ppo.config import PPOConfig
from alignment.ppo.critic import Critic, critic_from_policy, critic_from_reward_model
from alignment.ppo.optimizer import Optimizer, cast_parameters
from alignment.ppo.packing import Pack, allow_packing, packs


@dataclass
class Learner:
    """policy and critic are trained; the reference is the policy as it began. Dropout is off in all of them: a ratio of two
    forward passes must differ from 1 by the weights alone.

    kl_coefficient: beta, which moves if it is adaptive. packed: False for models that only run on padded batches.
    """

    policy: Any
    reference: Any
    critic: Critic
    policy_optimizer: Optimizer
    critic_optimizer: Optimizer
    kl_coefficient: float
    device: str
    packed: bool
    tokens_per_pass: int

    def packs(self, completions: Sequence[Completion], rows: Sequence[int], width: int) -> Iterator[Pack]:
        """Those rows of a batch, ready for any of the three models. width: T of the batch's grids."""
        return packs(
            completions, rows, width=width, tokens=self.tokens_per_pass, packed=self.packed, device=self.device
        )


def new_learner(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context) -> Learner:
    """Policy, reference, critic and optimisers as they are before the first step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy: Any = load_causal_lm(inputs["model"].path, dropout=False)
    policy = policy.to(device)
    critic: Any = _new_critic(config, inputs["reward"], policy, context).to(device)
    packed = allow_packing(policy.base_model) and allow_packing(critic.backbone)
    if not packed:
        context.log.info(f"{type(policy).__name__} cannot run on packed sequences: batches are padded")
    reference = copy.deepcopy(policy).requires_grad_(False)
    cast_parameters(reference, DTYPES[config.precision])
    return Learner(
        policy=policy,
        reference=reference,
        critic=critic,
        policy_optimizer=Optimizer(policy, config.learning_rate, config.max_grad_norm, config.precision),
        critic_optimizer=Optimizer(critic, config.critic.learning_rate, config.max_grad_norm, config.precision),
        kl_coefficient=config.kl.coefficient,
        device=device,
        packed=packed,
        tokens_per_pass=config.tokens_per_pass,
    )


def _new_critic(config: PPOConfig, reward: Artifact, policy: nn.Module, context: Context) -> Critic:
    if config.critic.init == "policy":
        return critic_from_policy(policy, context.seed_for("critic head"))
    model = load_reward_model(reward.path)
    turn_dropout_off(model)
    return critic_from_reward_model(model, *_normalisation(reward.path))


def _normalisation(folder: Path) -> tuple[float, float]:
    """Mean and deviation by which the scorer normalises this reward model; they lie in its folder."""
    saved = folder / "reward_normalisation.json"
    if not saved.exists():
        return 0.0, 1.0
    numbers = json.loads(saved.read_text())
    return numbers["mean"], numbers["std"]
