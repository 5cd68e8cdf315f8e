"""Two whole PPO steps on a model of two words and an end, against plain Python with gradients worked out by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch
from learners import RecordingOptimizer, config_with
from plain_ppo import Answer, Player, Settings
from torch import nn

from alignment.generation.engine import Completion
from alignment.ppo.learner import Learner
from alignment.ppo.networks import Critic, Policy
from alignment.ppo.rollout import judge
from alignment.ppo.update import optimise

END = 2
TABLE = [[0.6, -0.4], [-0.5, 0.8], [0.1, 0.3]]
HEAD = [[0.9, 0.2], [-0.3, 0.7], [0.4, -0.6]]
REFERENCE_HEAD = [[0.5, 0.4], [-0.1, 0.2], [0.2, -0.9]]
CRITIC_TABLE = [[0.2, 0.5], [-0.7, 0.1], [0.0, 0.0]]
WEIGHT, BIAS = [[0.5, -0.4]], [[0.1]]
RATES = 0.05, 0.08
STEPS, SEED = 4, 11

# Prompts and responses of several lengths; what the sampler said is off by enough to meet the importance cap.
ANSWERS = [
    Answer([0], [1, END], [-1.0, -1.2], True, 1.0),
    Answer([1, 0], [0, 1, 0], [-1.1, -0.9, -2.5], False, 2.0),
    Answer([1], [END], [-0.7], True, -0.5),
    Answer([0, 1], [1, 1, 0, END], [-1.3, -0.4, -1.0, -3.0], True, 0.3),
    Answer([0], [0, 0, END], [-0.5, -0.6, -0.9], True, 1.5),
    Answer([1], [1, 0, 1], [-0.8, -1.4, -1.2], False, 0.0),
]
EVERYTHING = {
    "rollout": {"batch_size": 6, "temperature": 0.7},
    "kl": {"coefficient": 0.3},
    "gae": {"gamma": 0.97, "lam": 0.9},
    "clip": {"ratio": 0.1, "value": 0.05, "dual": 1.05},
    "missing_eos": {"mode": "replace", "value": -1.0},
    "importance": {"cap": 2.0, "level": "token"},
    "entropy_bonus": 0.02,
    "whiten_rewards": True,
    "max_grad_norm": 0.3,
}
PLAIN = {
    "rollout": {"batch_size": 6, "temperature": 1.0},
    "clip": {"ratio": 0.2, "value": None, "dual": None},
    "whiten_advantages": False,
    "max_grad_norm": 100.0,
}


class Trunk(nn.Module):
    """The state of a prefix is a row of a table, by the prefix's last token."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows))

    def forward(self, input_ids, **_):
        return SimpleNamespace(last_hidden_state=self.table[input_ids])


class TableModel(nn.Module):
    """What `Policy` asks of a language model of transformers."""

    def __init__(self, table, head):
        super().__init__()
        self.base_model, self.head = Trunk(table), linear(head)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.head(self.base_model(input_ids).last_hidden_state))


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias[0]))
    return layer


def learner_for(config, shared):
    value_head = linear(WEIGHT, BIAS)
    critic = None if shared else Critic(Trunk(CRITIC_TABLE), value_head)
    policy = Policy(
        TableModel(TABLE, HEAD), value_head=value_head if shared else None, stop_gradient=config.critic.stop_gradient
    )
    valued = value_head if critic is None else critic
    return Learner(
        policy=policy,
        reference=Policy(TableModel(TABLE, REFERENCE_HEAD)).requires_grad_(False),
        critic=critic,
        policy_optimizer=RecordingOptimizer(policy.lm.parameters(), RATES[0], config.max_grad_norm),
        critic_optimizer=RecordingOptimizer(valued.parameters(), RATES[1], config.max_grad_norm),
        kl_coefficient=config.kl.coefficient,
        device="cpu",
        packed=False,
        tokens_per_pass=12,
    )


def player_for(config, shared):
    critic = {"weight": WEIGHT, "bias": BIAS} | ({} if shared else {"table": CRITIC_TABLE})
    settings = Settings(
        temperature=config.rollout.temperature,
        beta=config.kl.coefficient,
        gamma=config.gae.gamma,
        lam=config.gae.lam,
        clip=config.clip.ratio,
        dual=config.clip.dual,
        value_clip=config.clip.value,
        cap=2.0,
        missing_eos=-1.0,
        entropy_bonus=config.entropy_bonus or 0.0,
        whiten_rewards=config.whiten_rewards,
        whiten_advantages=config.whiten_advantages,
        trunk_coefficient=config.critic.loss_coefficient if shared else None,
        stop_gradient=config.critic.stop_gradient,
    )
    policy, reference = {"table": TABLE, "head": HEAD}, {"table": TABLE, "head": REFERENCE_HEAD}
    own = [copy.deepcopy(weights) for weights in (policy, reference, critic)]  # one by one: the table is in two of them
    return Player(*own, settings, config.max_grad_norm)


def plain_step(player, config, step):
    """Metrics by name, each a list over optimiser steps."""
    batch, found = player.judge(ANSWERS), {}
    shuffle = torch.Generator().manual_seed(SEED + step)
    rates = tuple(rate * (1 - step / STEPS) for rate in RATES)
    for _ in range(config.epochs):
        order = torch.randperm(len(ANSWERS), generator=shuffle).tolist()
        for first in range(0, len(order), config.minibatch_size):
            minibatch = [batch[row] for row in order[first : first + config.minibatch_size]]
            for name, number in player.update(minibatch, rates).items():
                found.setdefault(name, []).append(number)
    return batch, found


def our_step(learner, config, step):
    learner.policy_optimizer.set_progress(step / STEPS)
    learner.critic_optimizer.set_progress(step / STEPS)
    completions = [Completion(a.prompt, a.response, a.sampled, a.finished) for a in ANSWERS]
    scores = torch.tensor([answer.score for answer in ANSWERS])
    rollout = judge(completions, [{}] * len(ANSWERS), learner, lambda completions, rows: scores, config)
    return rollout, optimise(rollout, learner, config, step=step, seed=SEED + step)


def close(actual, expected):
    torch.testing.assert_close(actual.detach(), torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shared", [None, False, True], ids=["own table", "policy's table", "policy's table, stopped"])
@pytest.mark.parametrize("options", [EVERYTHING, PLAIN], ids=["all options", "few options"])
def test_two_steps_of_several_epochs_and_minibatches_equal_plain_python(options, shared):
    on_trunk = {"learning_rate": RATES[1], "init": "policy", "stop_gradient": bool(shared)}
    arrangement = "separate" if shared is None else "value_head"
    config = config_with(**options | {"minibatch_size": 3, "epochs": 3, "arrangement": arrangement, "critic": on_trunk})
    learner, player = learner_for(config, shared is not None), player_for(config, shared is not None)
    clipped = []
    for step in range(2):
        (rollout, metrics), (batch, found) = our_step(learner, config, step), plain_step(player, config, step)
        for row, one in enumerate(batch):
            for name in ("rewards", "values", "advantages", "returns"):
                close(getattr(rollout, name)[row, : len(one.before)], getattr(one, name))
            close(rollout.weights[row, : len(one.before)], one.importance)
        for name in ("policy/loss", "critic/loss", "policy/gradient_norm", "critic/gradient_norm"):
            assert metrics[name] == pytest.approx(sum(found[name]) / len(found[name]), abs=2e-5)
        clipped += found["clipped"]
    assert max(clipped) > 0.2, "the numbers above must reach the clip, or it is not tested"
    policy, critic = learner.policy, learner.critic
    close(policy.trunk.table, player.policy["table"])
    close(policy.lm.head.weight, player.policy["head"])
    if critic is not None:
        close(critic.trunk.table, player.critic["table"])
    head = critic.head if critic is not None else policy.value_head
    close(head.weight, player.critic["weight"])
    close(head.bias, player.critic["bias"][0])
