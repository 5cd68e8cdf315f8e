"""Optimisation of one rollout, and the optimiser."""

import copy

import pytest
import torch
from torch import nn

from alignment.models.load import DTYPES
from alignment.ppo.arrangements import critic_from_policy
from alignment.ppo.config import PPOConfig
from alignment.ppo.learner import Learner
from alignment.ppo.networks import Policy
from alignment.ppo.optimizer import Optimizer, cast_parameters
from alignment.ppo.packing import allow_packing
from alignment.ppo.rollout import judge
from alignment.ppo.update import optimise


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
    policy, critic = Policy(model), critic_from_policy(model, seed=1)
    if packed:
        assert allow_packing(policy.trunk) and allow_packing(critic.trunk)
    reference = copy.deepcopy(policy).requires_grad_(False)
    dtype = DTYPES[config.precision]
    return Learner(
        policy=policy,
        reference=reference,
        critic=critic,
        policy_optimizer=Optimizer(policy.parameters(), config.learning_rate, config.max_grad_norm, dtype),
        critic_optimizer=Optimizer(critic.parameters(), config.critic.learning_rate, config.max_grad_norm, dtype),
        kl_coefficient=config.kl.coefficient,
        device="cpu",
        packed=packed,
        tokens_per_pass=config.tokens_per_pass,
    )


def length_scorer(completions, rows):
    return torch.tensor([len(completion.response_ids) / 6 - 1 for completion in completions])


def updated(model, completions, config, packed=True):
    learner = learner_on(model, config, packed)
    rollout = judge(completions, [{}] * len(completions), learner, length_scorer, config)
    metrics = optimise(rollout, learner, config, step=0, seed=5)
    return nn.utils.parameters_to_vector([*learner.policy.parameters(), *learner.critic.parameters()]), metrics


@pytest.mark.parametrize(("packed", "tokens"), [(False, 10_000), (True, 30), (False, 30)])
def test_an_update_depends_neither_on_padding_nor_on_how_many_passes_it_takes(tiny_model, answers, packed, tokens):
    expected, expected_metrics = updated(tiny_model(), answers(8), config_with())
    weights, metrics = updated(tiny_model(), answers(8), config_with(tokens_per_pass=tokens), packed)
    # Adam turns a gradient's sign into a whole step, so rounding of gradients near 0 shows: compare in the mean.
    assert (weights - expected).abs().mean() < 1e-5
    assert metrics == pytest.approx(expected_metrics, abs=1e-4)


def test_the_first_minibatch_starts_at_ratio_one(tiny_model, answers):
    config = config_with(epochs=1, minibatch_size=8)
    _, metrics = updated(tiny_model(), answers(8), config)
    assert metrics["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/approx_kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["policy/clip_fraction"] == 0.0


def test_an_update_makes_better_answers_likelier_and_values_more_accurate(tiny_model, answers):
    config = config_with(epochs=4, whiten_advantages=True)
    learner, completions = learner_on(tiny_model(), config), answers(8)
    before = judge(completions, [{}] * 8, learner, length_scorer, config)
    optimise(before, learner, config, step=0, seed=5)
    after = judge(completions, [{}] * 8, learner, length_scorer, config)
    change = (after.policy_logprobs - before.policy_logprobs)[before.mask]
    assert (change * before.advantages[before.mask]).sum() > 0
    mask = before.mask
    error_before = ((before.values - before.returns)[mask] ** 2).mean()
    assert ((after.values - before.returns)[mask] ** 2).mean() < 0.9 * error_before


def test_judging_puts_the_kl_of_policy_to_reference_into_the_rewards(tiny_model, answers):
    config = config_with(kl={"coefficient": 0.5}, missing_eos=None)
    learner, completions = learner_on(tiny_model(), config), answers(8)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.mul_(1.1)
    rollout = judge(completions, [{}] * 8, learner, length_scorer, config)
    kl = (rollout.policy_logprobs - rollout.reference_logprobs).masked_fill(~rollout.mask, 0).sum(1)
    assert kl.abs().min() > 1e-3
    torch.testing.assert_close(rollout.rewards.sum(1), length_scorer(completions, []) - 0.5 * kl, atol=1e-5, rtol=0)


def test_an_answer_without_eos_gets_the_penalty_for_its_score(tiny_model, answers):
    config = config_with(missing_eos={"mode": "replace", "value": -3.0})
    completions = answers(8)
    rollout = judge(completions, [{}] * 8, learner_on(tiny_model(), config), length_scorer, config)
    expected = [-3.0 if not c.finished else len(c.response_ids) / 6 - 1 for c in completions]
    assert not all(completion.finished for completion in completions)
    torch.testing.assert_close(rollout.scores, torch.tensor(expected))


def one_weight(value, **options):
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(value)
    return layer, Optimizer(layer.parameters(), **({"learning_rate": 0.1, "max_grad_norm": 1.0} | options))


def test_gradients_are_clipped_by_their_common_norm():
    layer, optimizer = one_weight(1.0)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert optimizer.clip().item() == pytest.approx(5.0)
    optimizer.step()
    adam = optimizer.state()["moments"][0]
    torch.testing.assert_close(adam["exp_avg"], torch.tensor([[0.06, 0.08]]), atol=1e-6, rtol=0)  # (1 - .9) * (.6, .8)
    assert layer.weight.grad is None


def test_first_adam_step_and_linear_decay():
    layer, optimizer = one_weight(1.0)
    optimizer.set_progress(0.75)
    layer.weight.grad = torch.tensor([[1e-5, -0.5]])
    optimizer.clip()
    optimizer.step()
    # m / (sqrt(v) + eps): half a step where the gradient is as small as eps = 1e-5, a whole one elsewhere; lr .1 / 4.
    torch.testing.assert_close(layer.weight.data, torch.tensor([[1 - 0.0125, 1 + 0.025]]), atol=1e-5, rtol=0)


def test_in_bf16_small_steps_add_up_in_the_master_weights():
    layer, optimizer = one_weight(1.0, learning_rate=1e-4, dtype=torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    for _ in range(100):
        layer.weight.grad = torch.ones(1, 2, dtype=torch.bfloat16)
        optimizer.clip()
        optimizer.step()
    assert torch.equal(torch.tensor(1.0).bfloat16() - 1e-4, torch.tensor(1.0).bfloat16())  # one step alone is lost
    torch.testing.assert_close(layer.weight.float(), torch.full((1, 2), 0.99), atol=2e-3, rtol=0)
    optimizer.use_masters()
    torch.testing.assert_close(layer.weight.data, torch.full((1, 2), 0.99), atol=1e-5, rtol=0)


def test_casting_leaves_the_rotary_frequencies_alone(tiny_model):
    model = tiny_model()
    before = model.model.rotary_emb.inv_freq.clone()
    cast_parameters(model, torch.bfloat16)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
