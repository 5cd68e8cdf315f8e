"""The optimisation of one rollout: `epochs` passes over shuffled minibatches, policy and critic each by their own loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment.ppo import maths
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.networks import TokenNumbers
from alignment.ppo.packing import Pack
from alignment.ppo.ptx import PtxTexts
from alignment.ppo.rollout import Rollout
from alignment.ppo.side_by_side import side_by_side

Numbers = dict[str, Tensor]


def optimise(
    rollout: Rollout, learner: Learner, config: PPOConfig, *, step: int, seed: int, ptx: PtxTexts | None = None
) -> dict[str, float]:
    """Updates policy and critic in place. Returns metrics, each the mean over the optimiser steps taken.

    step: of the run, counted from 0. seed: of the shuffles. A loss is summed over the tokens of its minibatch, on all
    processes, and divided by their number, in however many passes it is computed.
    """
    shuffle = torch.Generator().manual_seed(seed)
    minibatches = len(rollout.completions) // config.minibatch_size
    totals: list[Numbers] = []
    epochs = skips = 0
    for epoch in range(config.epochs):
        order = torch.randperm(len(rollout.completions), generator=shuffle)
        taken: list[Numbers] = []
        for number, minibatch in enumerate(order.split(config.minibatch_size)):
            numbers = _policy_and_critic(rollout, minibatch.tolist(), learner, config, step)
            if ptx is not None and policy_learns(config, step):
                numbers |= _old_texts(ptx, (step * config.epochs + epoch) * minibatches + number, learner, config)
            norms = _step(learner, config, step)
            if norms is None:
                skips += 1
            else:
                taken.append(_over_processes(numbers, learner) | norms)
        totals, epochs = totals + taken, epochs + 1
        if config.early_stop_kl is not None and _means(taken).get("policy/approx_kl", 0.0) > config.early_stop_kl:
            break
    learner.skipped = 0 if totals else learner.skipped + 1
    return _means(totals) | {"update/epochs": epochs, "update/skipped": skips}


def _policy_and_critic(
    rollout: Rollout, minibatch: Sequence[int], learner: Learner, config: PPOConfig, step: int
) -> Numbers:
    """Gradients of both losses on some sequences of the batch, and this process's part of their numbers.

    Models that share a trunk share its forward pass. Others are at work side by side where that is faster.
    """
    tokens = rollout.mask[minibatch].sum()
    made = list(learner.packs(rollout.completions, minibatch, rollout.mask.shape[1]))

    def policy() -> Numbers:
        sums: Numbers = {}
        for pack in made:
            output = learner.policy(
                pack,
                config.rollout.temperature,
                entropy=config.entropy_bonus is not None,
                values=learner.critic is None,
            )
            loss, numbers = _policy_loss(output, rollout, pack, config, tokens)
            if output.values is not None:
                critic_loss, more = _critic_loss(output.values, rollout, pack, config, tokens)
                loss, numbers = loss + config.critic.loss_coefficient * critic_loss, numbers | more
            _backward(loss, pack, learner)
            _add(sums, numbers, pack)
        return sums

    def critic() -> Numbers:
        sums: Numbers = {}
        assert learner.critic is not None
        for pack in made:
            loss, numbers = _critic_loss(learner.critic(pack), rollout, pack, config, tokens)
            _backward(loss, pack, learner)
            _add(sums, numbers, pack)
        return sums

    tasks = [policy] if learner.critic is None or policy_learns(config, step) else []
    tasks += [critic] if learner.critic is not None else []
    sums: Numbers = {}
    for part in side_by_side(tasks, learner.at_once):
        sums |= part
    return sums


def _policy_loss(
    output: TokenNumbers, rollout: Rollout, pack: Pack, config: PPOConfig, tokens: Tensor
) -> tuple[Tensor, Numbers]:
    rows, mask = pack.rows, rollout.mask[pack.rows]
    loss, numbers = maths.policy_loss(
        pack.grid(output.logprobs),
        rollout.policy_logprobs[rows],
        rollout.advantages[rows],
        mask,
        clip=config.clip.ratio,
        dual_clip=config.clip.dual,
        weights=None if rollout.weights is None else rollout.weights[rows],
        tokens=tokens,
    )
    if config.entropy_bonus is not None and output.entropy is not None:
        entropy = output.entropy.sum() / tokens
        loss, numbers = loss - config.entropy_bonus * entropy, numbers | {"policy/entropy": entropy.detach()}
    return loss, numbers


def _critic_loss(
    values: Tensor, rollout: Rollout, pack: Pack, config: PPOConfig, tokens: Tensor
) -> tuple[Tensor, Numbers]:
    rows = pack.rows
    return maths.value_loss(
        pack.grid(values),
        rollout.values[rows],
        rollout.returns[rows],
        rollout.mask[rows],
        clip=config.clip.value,
        tokens=tokens,
    )


def _old_texts(ptx: PtxTexts, number: int, learner: Learner, config: PPOConfig) -> Numbers:
    """Gradient of the language-model loss on a batch of old texts, in nats per token, times its coefficient."""
    assert config.ptx is not None
    texts = ptx.batch(number)
    tokens = sum(len(text.response_ids) for text in texts)
    sums: Numbers = {}
    for pack in learner.packs(texts, range(len(texts)), max(len(text.response_ids) for text in texts)):
        loss = -learner.policy(pack, 1.0).logprobs.sum() / tokens
        _backward(config.ptx.coefficient * loss, pack, learner)
        _add(sums, {"ptx/loss": loss.detach()}, pack)
    return sums


def _step(learner: Learner, config: PPOConfig, step: int) -> Numbers | None:
    """One optimiser step of policy and critic; None if the gradients are such that it was left out."""
    optimizers = {"critic/gradient_norm": learner.critic_optimizer}
    if policy_learns(config, step):
        optimizers["policy/gradient_norm"] = learner.policy_optimizer
    norms = {name: optimizer.clip() for name, optimizer in optimizers.items()}
    limit = config.guard.gradient_norm or float("inf")
    sound = all(bool(norm.isfinite()) and float(norm) <= limit for norm in norms.values())
    if sound:
        for optimizer in optimizers.values():
            optimizer.step()
    learner.policy_optimizer.discard()
    learner.critic_optimizer.discard()
    return norms if sound else None


def policy_learns(config: PPOConfig, step: int) -> bool:
    """Whether the critic's warm-up is over at this step of the run, counted from 0."""
    return step >= (config.critic.warmup_steps or 0)


def _backward(loss: Tensor, pack: Pack, learner: Learner) -> None:
    """A repeated pack takes part without effect. Sharded gradients are averaged over processes, where a sum is wanted."""
    (loss * (0 if pack.repeat else learner.world.size if learner.even else 1)).backward()


def _add(sums: Numbers, numbers: Numbers, pack: Pack) -> None:
    for name, number in numbers.items():
        number = number * 0 if pack.repeat else number
        sums[name] = sums[name] + number if name in sums else number


def _over_processes(numbers: Numbers, learner: Learner) -> Numbers:
    if learner.world.size == 1:
        return numbers
    names = sorted(numbers)
    stacked = torch.stack([numbers[name].to(learner.device).float() for name in names])
    learner.world.sum_([stacked])
    return dict(zip(names, stacked, strict=True))


def _means(steps: Sequence[Numbers]) -> dict[str, float]:
    names = {name for numbers in steps for name in numbers}
    return {
        name: float(torch.stack([numbers[name].float().cpu() for numbers in steps if name in numbers]).mean())
        for name in sorted(names)
    }
