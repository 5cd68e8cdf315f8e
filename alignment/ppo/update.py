"""The optimisation of one rollout: `epochs` passes over shuffled minibatches, policy and critic each by their own loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.maths import policy_loss, token_logprobs, value_loss
from alignment.ppo.packing import response_logits
from alignment.ppo.rollout import Rollout


def optimise(rollout: Rollout, learner: Learner, config: PPOConfig, seed: int) -> dict[str, float]:
    """Updates policy and critic in place. Returns metrics, each the mean over the optimiser steps.

    seed: of the shuffles. A loss is summed over the tokens of its minibatch and divided by their number, in however many
    passes it is computed.
    """
    shuffle = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    updates = config.epochs * (len(rollout.completions) // config.minibatch_size)
    for _ in range(config.epochs):
        order = torch.randperm(len(rollout.completions), generator=shuffle)
        for minibatch in order.split(config.minibatch_size):
            _add(sums, _step(rollout, minibatch.tolist(), learner, config))
    return {name: float(total) / updates for name, total in sums.items()}


def _step(rollout: Rollout, minibatch: Sequence[int], learner: Learner, config: PPOConfig) -> dict[str, Tensor]:
    """One optimiser step of policy and critic on some sequences of the batch."""
    metrics: dict[str, Tensor] = {}
    tokens = rollout.mask[minibatch].sum()
    for pack in learner.packs(rollout.completions, minibatch, rollout.mask.shape[1]):
        rows, mask = pack.rows, rollout.mask[pack.rows]
        logits = response_logits(learner.policy, pack)
        loss, numbers = policy_loss(
            pack.grid(token_logprobs(logits, pack.targets, config.rollout.temperature)),
            rollout.policy_logprobs[rows],
            rollout.advantages[rows],
            mask,
            clip=config.clip.ratio,
            dual_clip=config.clip.dual,
            weights=None if rollout.weights is None else rollout.weights[rows],
            tokens=tokens,
        )
        loss.backward()
        _add(metrics, numbers)

        loss, numbers = value_loss(
            pack.grid(learner.critic(pack)),
            rollout.values[rows],
            rollout.returns[rows],
            mask,
            clip=config.clip.value,
            tokens=tokens,
        )
        loss.backward()
        _add(metrics, numbers)
    metrics["policy/gradient_norm"] = learner.policy_optimizer.step()
    metrics["critic/gradient_norm"] = learner.critic_optimizer.step()
    return metrics


def _add(sums: dict[str, Tensor], numbers: dict[str, Tensor]) -> None:
    for name, number in numbers.items():
        sums[name] = sums[name] + number if name in sums else number
