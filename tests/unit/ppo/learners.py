"""Learners on models made on the spot, and an optimiser that remembers its gradients."""

import copy

import torch
from torch import nn

from alignment.ppo.arrangements import critic_from_policy
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.networks import Policy
from alignment.ppo.optimizer import Optimizer, cast_parameters
from alignment.ppo.packing import allow_packing
from alignment.ppo.rollout import judge
from alignment.ppo.update import optimise


class RecordingOptimizer(Optimizer):
    """`gradients`: those of every step, one vector each, before they are clipped."""

    def clip(self):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._masters]
        self.__dict__.setdefault("gradients", []).append(nn.utils.parameters_to_vector(grads).float())
        return super().clip()


def config_with(**options):
    references = {"model": {"stage": "sft"}, "reward": {"stage": "reward"}, "prompts": {"lab": "prompts"}}
    small = {
        "rollout": {"batch_size": 8},
        "minibatch_size": 4,
        "learning_rate": 1e-3,
        "critic": {"learning_rate": 1e-3},
    }
    return PPOConfig.model_validate(references | small | options)


def learner_on(model, config, packed=True):
    """Four separate models: policy, reference and critic begin as `model`."""
    autocast, dtype = config.precision == "autocast", torch.bfloat16 if config.precision == "bf16" else torch.float32
    policy, critic = Policy(model, autocast=autocast), critic_from_policy(model, seed=1, autocast=autocast)
    if packed:
        assert allow_packing(policy.trunk) and allow_packing(critic.trunk)
    reference = copy.deepcopy(policy).requires_grad_(False)
    cast_parameters(reference, dtype)
    return Learner(
        policy=policy,
        reference=reference,
        critic=critic,
        policy_optimizer=RecordingOptimizer(policy.parameters(), config.learning_rate, config.max_grad_norm, dtype),
        critic_optimizer=RecordingOptimizer(
            critic.parameters(), config.critic.learning_rate, config.max_grad_norm, dtype
        ),
        kl_coefficient=config.kl.coefficient,
        device="cpu",
        packed=packed,
        tokens_per_pass=config.tokens_per_pass,
    )


def length_scorer(completions, rows):
    return torch.tensor([len(completion.response_ids) / 6 - 1 for completion in completions])


def updated(learner, completions, config):
    """One rollout judged and learned from. Returns (rollout, metrics)."""
    rollout = judge(completions, [{}] * len(completions), learner, length_scorer, config)
    return rollout, optimise(rollout, learner, config, step=0, seed=5)


def gradients_of(learner):
    """Policy's and critic's of every step, [steps, weights]."""
    steps = zip(learner.policy_optimizer.gradients, learner.critic_optimizer.gradients, strict=True)
    return torch.stack([torch.cat(both) for both in steps])
