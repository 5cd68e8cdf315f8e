"""What a checkpoint brings back of a learner; and prompts, which need none: their order follows from the step."""

import random

import numpy as np
import torch
from test_ppo_update import config_with, learner_on, length_scorer

from alignment.ppo.checkpoint import load_checkpoint, save_checkpoint
from alignment.ppo.prompts import Prompts
from alignment.ppo.rollout import judge
from alignment.ppo.update import optimise


def test_a_checkpoint_restores_everything_the_next_step_depends_on(tiny_model, answers, tmp_path):
    config = config_with(precision="bf16")
    learner = learner_on(tiny_model(), config)

    def step(of):
        optimise(judge(answers(8), [{}] * 8, of, length_scorer, config), of, config, seed=3)
        return [parameter.clone() for parameter in (*of.policy.parameters(), *of.critic.parameters())]

    step(learner)
    learner.kl_coefficient = 0.123
    save_checkpoint(tmp_path, learner, {"steps": 1, "rollout_tokens": 77})
    drawn = random.random(), np.random.rand(), torch.rand(1)
    expected = step(learner)

    other = learner_on(tiny_model(seed=9), config)
    assert load_checkpoint(tmp_path, other) == {"steps": 1, "rollout_tokens": 77}
    assert other.kl_coefficient == 0.123
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
    other.reference = learner.reference  # read from the policy's folder anew by a resumed run
    assert all(torch.equal(a, b) for a, b in zip(step(other), expected, strict=True))


class Words:
    def __call__(self, text):
        return {"input_ids": [int(word) for word in text.split()]}


def test_every_pass_meets_every_prompt_once_in_another_order():
    rows = [{"prompt": f"{number} 0"} for number in range(10)]
    prompts = Prompts(rows, Words(), seed=0)
    met = [ids[0] for step in range(5) for ids in prompts.batch(step, 4)[0]]
    assert sorted(met[:10]) == sorted(met[10:]) == list(range(10))
    assert met[:10] != met[10:]


def test_a_batch_follows_from_its_step_alone():
    rows = [{"prompt": f"{number} 0"} for number in range(10)]
    assert Prompts(rows, Words(), 0).batch(7, 4) == [Prompts(rows, Words(), 0).batch(n, 4) for n in range(8)][7]
    assert Prompts(rows, Words(), 0).batch(0, 4) != Prompts(rows, Words(), 1).batch(0, 4)
