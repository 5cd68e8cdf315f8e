"""What a checkpoint brings back of a learner; and prompts, which need none: their order follows from the step."""

import random

import arranged
import numpy as np
import pytest
import torch
from arranged import ARRANGEMENTS, config_in, judged, learner_in, snapshot

from alignment.ppo.checkpoint import Checkpoints
from alignment.ppo.prompts import Prompts
from alignment.ppo.update import optimise
from alignment.random_states import random_states, set_random_states

CASES = [(name, "fp32") for name in ARRANGEMENTS] + [("separate", "bf16"), ("value_head", "autocast")]


def lengths(completions, rows):
    """Scores whose mean and deviation differ from batch to batch."""
    return torch.tensor([float(len(completion.response_ids)) for completion in completions])


@pytest.mark.parametrize(("arrangement", "precision"), CASES)
def test_a_checkpoint_brings_back_all_that_the_next_step_depends_on(
    tiny_model, answers, tmp_path, arrangement, precision
):
    config = config_in(arrangement, precision=precision, reference_reset_every=1, scores={"normalise": "running"})
    inputs = arranged.save_models(tmp_path, tiny_model())
    learner = learner_in(inputs, config, tmp_path / "interrupted")

    def step(of, number):
        optimise(judged(of, answers(8, seed=number), config, lengths), of, config, step=number, seed=number)
        return snapshot(of)

    step(learner, 1)
    learner.reset_reference()
    learner.kl_coefficient, learner.skipped = 0.123, 2
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"learner": learner.state(), "random": random_states()})
    drawn = random.random(), np.random.rand(), torch.rand(1)
    expected = step(learner, 2)

    resumed = learner_in(inputs, config, tmp_path / "resumed")
    found = checkpoints.load("cpu")
    assert found is not None and found[0] == 1
    resumed.restore(found[1]["learner"])
    set_random_states(found[1]["random"])
    assert (resumed.kl_coefficient, resumed.skipped) == (0.123, 2)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn
    weights = step(resumed, 2)
    assert weights.keys() == expected.keys()
    assert [name for name, weight in weights.items() if not torch.equal(weight, expected[name])] == []


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
