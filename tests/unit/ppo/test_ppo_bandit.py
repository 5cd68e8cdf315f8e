"""One step, three actions: the optimum of PPO with a KL penalty is known exactly, and PPO gets there."""

import math

import pytest
import torch
from learners import config_with
from test_ppo_reference_implementation import TableModel, Trunk, linear

from alignment.generation.engine import Completion
from alignment.ppo.learner import Learner
from alignment.ppo.networks import Critic, Policy
from alignment.ppo.optimizer import Optimizer
from alignment.ppo.rollout import judge
from alignment.ppo.update import optimise

TABLE = [[1.0, 0.0, 0.0]] * 3
HEAD = [[math.log(p), 0.3, -0.2] for p in (0.5, 0.3, 0.2)]
SCORES = [0.0, 0.5, 1.0]
STEPS, BATCH = 80, 64


def trained_policy(beta):
    """Probabilities of the three answers to the prompt [0], after PPO on its own samples."""
    config = config_with(
        rollout={"batch_size": BATCH},
        minibatch_size=BATCH,
        kl={"coefficient": beta},
        gae={"gamma": 1, "lam": 1},
        missing_eos=None,
        whiten_advantages=False,
    )
    policy = Policy(TableModel(TABLE, HEAD))
    critic = Critic(Trunk(TABLE), linear([[0.0, 0.0, 0.0]], [[0.0]]))
    learner = Learner(
        policy=policy,
        reference=Policy(TableModel(TABLE, HEAD)).requires_grad_(False),
        critic=critic,
        policy_optimizer=Optimizer(policy.parameters(), 0.05, 1.0),
        critic_optimizer=Optimizer(critic.parameters(), 0.05, 1.0),
        kl_coefficient=beta,
        device="cpu",
        packed=False,
        tokens_per_pass=10_000,
    )
    dice = torch.Generator().manual_seed(0)

    def scorer(completions, rows):
        return torch.tensor([SCORES[completion.response_ids[0]] for completion in completions])

    def probabilities():
        with torch.no_grad():
            return policy.lm(torch.tensor([[0]])).logits[0, 0].softmax(-1)

    for step in range(STEPS):
        for optimizer in (learner.policy_optimizer, learner.critic_optimizer):
            optimizer.set_progress(step / STEPS)
        sampled = torch.multinomial(probabilities(), BATCH, replacement=True, generator=dice).tolist()
        logprobs = probabilities().log().tolist()
        completions = [Completion([0], [token], [logprobs[token]], True) for token in sampled]
        rollout = judge(completions, [{}] * BATCH, learner, scorer, config)
        optimise(rollout, learner, config, step=step, seed=step)
    return probabilities().double()


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_ppo_finds_the_exact_optimum_of_reward_and_kl(beta):
    unnormalised = [p * math.exp(r / beta) for p, r in zip((0.5, 0.3, 0.2), SCORES, strict=True)]
    optimum = torch.tensor([number / sum(unnormalised) for number in unnormalised], dtype=torch.double)
    distance = (trained_policy(beta) - optimum).abs().sum() / 2
    print(f"beta {beta}: total variation {distance:.1e}")
    assert distance < 0.01
    start = torch.tensor([0.5, 0.3, 0.2], dtype=torch.double)
    assert (start - optimum).abs().sum() / 2 > 0.1, "the optimum must be away from where training starts"
