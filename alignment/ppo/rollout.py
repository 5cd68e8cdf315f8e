"""One batch of experience: answers sampled from the policy, and what policy, reference, critic and reward model say to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignment.generation.engine import Completion
from alignment.ppo import maths
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.protocols import Scorer
from alignment.ppo.scores import shaped
from alignment.ppo.side_by_side import side_by_side


@dataclass(frozen=True)
class Rollout:
    """A batch, judged. Grids are [B, T], T the longest response; `mask` is True on response tokens, EOS included.

    sampler_logprobs: by the engine; policy_logprobs: by the trainer, the same weights. scores: after shaping and the missing-EOS penalty.
    weights: importance weights of sampler against trainer, None = off.
    """

    completions: Sequence[Completion]
    mask: Tensor
    sampler_logprobs: Tensor
    policy_logprobs: Tensor
    reference_logprobs: Tensor
    entropy: Tensor
    values: Tensor
    scores: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor | None

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return sum(len(completion.response_ids) for completion in self.completions)


@torch.no_grad()
def judge(
    completions: Sequence[Completion],
    rows: Sequence[Mapping[str, Any]],
    learner: Learner,
    scorer: Scorer,
    config: PPOConfig,
) -> Rollout:
    """From sampled answers to advantages. rows[b]: the data row of prompt b. No weight changes.

    Several processes each look at a share of the answers; then all know all. So everything from here on, whitening over the
    whole batch included, is the same on every one of them.
    """
    mask = response_mask(completions).to(learner.device)
    sampler_logprobs = _padded([completion.logprobs for completion in completions]).to(learner.device)
    (policy_logprobs, entropy, values, reference_logprobs), scores = _readings(
        completions, rows, mask, learner, scorer, config
    )

    finished = torch.tensor([completion.finished for completion in completions], device=learner.device)
    scores = shaped(scores, config.scores, learner.score_statistics)
    if config.missing_eos is not None:
        scores = maths.with_missing_eos(scores, finished, config.missing_eos.mode, config.missing_eos.value)

    rewards = maths.token_rewards(scores, maths.k1(policy_logprobs, reference_logprobs), mask, learner.kl_coefficient)
    if config.whiten_rewards:
        rewards = maths.whiten(rewards, mask, shift_mean=False)
    advantages, returns = maths.gae(rewards, values, mask, config.gae.gamma, config.gae.lam)
    if config.whiten_advantages:
        advantages = maths.whiten(advantages, mask)
    weights = None
    if config.importance is not None:
        weights = maths.importance_weights(
            policy_logprobs, sampler_logprobs, mask, config.importance.cap, config.importance.level
        )
    return Rollout(
        completions, mask, sampler_logprobs, policy_logprobs, reference_logprobs, entropy, values, scores, rewards,
        advantages, returns, weights,
    )  # fmt: skip


@torch.no_grad()
def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """What the step's samples look like. Means over tokens are over response tokens; `per_sequence` are means of sums."""
    mask, sequences = rollout.mask, len(rollout.completions)
    kl_k1 = maths.k1(rollout.policy_logprobs, rollout.reference_logprobs)
    kl_k3 = maths.k3(rollout.policy_logprobs, rollout.reference_logprobs)
    gap = (rollout.policy_logprobs - rollout.sampler_logprobs).abs()
    metrics = {
        "rollout/score": rollout.scores.mean(),
        "rollout/score_deviation": rollout.scores.std(unbiased=False),
        "rollout/reward_per_sequence": maths.masked_sum(rollout.rewards, mask) / sequences,
        "rollout/kl": maths.masked_sum(kl_k1, mask) / sequences,
        "rollout/kl_per_token": maths.masked_mean(kl_k1, mask),
        "rollout/kl_k3": maths.masked_sum(kl_k3, mask) / sequences,
        "rollout/kl_k3_per_token": maths.masked_mean(kl_k3, mask),
        "rollout/entropy": maths.masked_mean(rollout.entropy, mask),
        "rollout/sampler_gap": maths.masked_mean(gap, mask),
        "rollout/sampler_gap_max": torch.where(mask, gap, 0.0).max(),
        "rollout/length": mask.sum() / sequences,
        "rollout/without_eos": torch.tensor([not c.finished for c in rollout.completions]).float().mean(),
        "critic/explained_variance": maths.explained_variance(rollout.values, rollout.returns, mask),
        "critic/value": maths.masked_mean(rollout.values, mask),
    }
    return {name: float(value) for name, value in metrics.items()}


def response_mask(completions: Sequence[Completion]) -> Tensor:
    """[B, T] bool, by length alone: an id says nothing, since the pad may be the EOS."""
    lengths = torch.tensor([len(completion.response_ids) for completion in completions])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def _readings(
    completions: Sequence[Completion],
    rows: Sequence[Mapping[str, Any]],
    mask: Tensor,
    learner: Learner,
    scorer: Scorer,
    config: PPOConfig,
) -> tuple[list[Tensor], Tensor]:
    """Grids [B, T] of the policy's log-probabilities and entropy, the values, and the reference's log-probabilities; and the
    scores [B]."""
    temperature = config.rollout.temperature
    made = list(learner.packs(completions, range(len(completions)), mask.shape[1]))
    grids = [torch.zeros_like(mask, dtype=torch.float32) for _ in range(4)]
    logprobs, entropy, values, reference_logprobs = grids

    def policy() -> None:
        for pack in made:
            numbers = learner.policy(pack, temperature, entropy=True, values=learner.critic is None)
            for grid, number in zip((logprobs, entropy, values), numbers, strict=True):
                if number is not None:
                    grid[pack.rows] = pack.grid(number)

    def critic() -> None:
        if learner.critic is not None:
            for pack in made:
                values[pack.rows] = pack.grid(learner.critic(pack))

    def reference() -> None:
        for pack in made:
            reference_logprobs[pack.rows] = pack.grid(learner.reference(pack, temperature).logprobs)

    def scores() -> Tensor:
        return _scores(completions, rows, learner, scorer)

    found = side_by_side([policy, critic, reference, scores], learner.at_once)
    learner.world.sum_(grids)  # each process filled rows of its own
    return grids, found[-1]


def _scores(
    completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]], learner: Learner, scorer: Scorer
) -> Tensor:
    """[B]"""
    world = learner.world
    own = slice(first := world.first(len(completions)), first + len(world.share(completions)))
    scores = torch.zeros(len(completions), device=learner.device)
    if own.start < own.stop:
        scores[own] = scorer(completions[own], rows[own]).to(learner.device)
    world.sum_([scores])
    return scores


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
