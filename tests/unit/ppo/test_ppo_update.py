"""Optimisation of one rollout, and the optimiser."""

import dataclasses
import math

import pytest
import torch
from arranged import config_in, learner_in, save_models
from learners import config_with, gradients_of, learner_on, length_scorer, updated
from torch import nn

from alignment.ppo.optimizer import Optimizer, cast_parameters
from alignment.ppo.rollout import judge, rollout_metrics
from alignment.ppo.update import optimise


@pytest.mark.parametrize(("packed", "tokens"), [(False, 10_000), (True, 30), (False, 30), (True, 1)])
def test_gradients_depend_neither_on_padding_nor_on_how_many_passes_they_take(tiny_model, answers, packed, tokens):
    expected, learner = learner_on(tiny_model(), config_with()), learner_on(tiny_model(), config_with(), packed)
    learner.tokens_per_pass = tokens
    _, expected_metrics = updated(expected, answers(8), config_with())
    _, metrics = updated(learner, answers(8), config_with())
    assert len(gradients_of(learner)) == 4  # two epochs of two minibatches
    torch.testing.assert_close(gradients_of(learner)[0], gradients_of(expected)[0], atol=1e-5, rtol=1e-5)
    # Adam makes a whole step of a gradient's sign, so rounding near 0 shows in what follows.
    torch.testing.assert_close(gradients_of(learner), gradients_of(expected), atol=1e-3, rtol=1e-3)
    assert metrics == pytest.approx(expected_metrics, abs=1e-4)


def test_without_its_refinements_the_gradient_is_that_of_reinforce(tiny_model, answers):
    """Williams 1992: -(score - 0) * grad log p(answer), summed and divided by the batch's tokens."""
    config = config_with(
        kl={"coefficient": 0},
        gae={"gamma": 1, "lam": 1},
        clip={"ratio": 1e6, "value": None},
        whiten_advantages=False,
        importance=None,
        missing_eos=None,
        epochs=1,
        minibatch_size=8,
    )
    model, completions = tiny_model(), answers(8)
    objective = torch.zeros(())
    for completion, score in zip(completions, length_scorer(completions, []), strict=True):
        ids = torch.tensor([completion.prompt_ids + completion.response_ids])
        logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        objective = objective - score * logprobs[len(completion.prompt_ids) - 1 :].sum()
    objective = objective / sum(len(completion.response_ids) for completion in completions)
    expected = nn.utils.parameters_to_vector(torch.autograd.grad(objective, list(model.parameters())))

    learner = learner_on(tiny_model(), config)
    nn.init.zeros_(learner.critic.head.weight)
    updated(learner, completions, config)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(learner.policy_optimizer.gradients[0], expected, atol=1e-5, rtol=1e-5)


def test_the_first_minibatch_starts_at_ratio_one(tiny_model, answers):
    config = config_with(epochs=1, minibatch_size=8)
    _, metrics = updated(learner_on(tiny_model(), config), answers(8), config)
    assert metrics["policy/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/approx_kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["policy/clip_fraction"] == 0.0


def test_what_lies_outside_the_mask_reaches_no_metric_and_no_gradient(tiny_model, answers):
    config = config_with(entropy_bonus=0.01, epochs=1, rollout={"batch_size": 8}, minibatch_size=8)
    clean, dirty = (learner_on(tiny_model(), config) for _ in range(2))
    completions = answers(8)
    rollout = judge(completions, [{}] * 8, clean, length_scorer, config)
    wider = nn.functional.pad(rollout.mask, (0, 5))
    absurd = {
        field.name: nn.functional.pad(grid, (0, 5)).masked_fill(~wider, 1e6)
        for field in dataclasses.fields(rollout)
        if isinstance(grid := getattr(rollout, field.name), torch.Tensor)
        and grid.dtype.is_floating_point
        and grid.ndim == 2
    }
    assert len(absurd) == 9
    padded = dataclasses.replace(rollout, mask=wider, **absurd)
    assert rollout_metrics(padded) == pytest.approx(rollout_metrics(rollout), abs=1e-6)
    metrics = [
        optimise(batch, learner, config, step=0, seed=5) for batch, learner in ((rollout, clean), (padded, dirty))
    ]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-6)
    torch.testing.assert_close(gradients_of(dirty), gradients_of(clean), atol=1e-6, rtol=1e-6)


def test_metrics_of_the_rollout_by_hand(tiny_model, answers):
    config = config_with(kl={"coefficient": 0.5})
    learner = learner_on(tiny_model(), config)
    with torch.no_grad():
        for parameter in learner.policy.parameters():
            parameter.mul_(1.1)
    rollout = judge(answers(8), [{}] * 8, learner, length_scorer, config)
    pairs = [
        (float(rollout.policy_logprobs[b, t]), float(rollout.reference_logprobs[b, t]))
        for b, completion in enumerate(answers(8))
        for t in range(len(completion.response_ids))
    ]
    metrics = rollout_metrics(rollout)
    k1 = sum(policy - reference for policy, reference in pairs)
    k3 = sum(math.exp(reference - policy) - 1 - (reference - policy) for policy, reference in pairs)
    assert metrics["rollout/kl"] == pytest.approx(k1 / 8, rel=1e-4)
    assert metrics["rollout/kl_per_token"] == pytest.approx(k1 / len(pairs), rel=1e-4)
    assert metrics["rollout/kl_k3"] == pytest.approx(k3 / 8, rel=1e-4)
    assert metrics["rollout/kl_k3_per_token"] == pytest.approx(k3 / len(pairs), rel=1e-4)
    assert metrics["rollout/sampler_gap"] == pytest.approx(sum(abs(p + 1) for p, _ in pairs) / len(pairs), rel=1e-4)
    assert metrics["rollout/sampler_gap_max"] == pytest.approx(max(abs(p + 1) for p, _ in pairs), rel=1e-4)
    assert metrics["rollout/length"] == len(pairs) / 8
    assert metrics["rollout/without_eos"] == sum(not completion.finished for completion in answers(8)) / 8


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


@pytest.mark.parametrize("arrangement", ["separate", "shared_base", "value_head"])
def test_gradient_checkpointing_computes_layers_twice_and_the_same_update(tiny_model, answers, tmp_path, arrangement):
    inputs, weights, forwards = save_models(tmp_path, tiny_model()), [], []
    for checkpointing in (False, True):
        config = config_in(arrangement, gradient_checkpointing=checkpointing)
        learner = learner_in(inputs, config, tmp_path / str(checkpointing))
        rollout = judge(answers(8), [{}] * 8, learner, length_scorer, config)
        seen = []
        learner.policy.trunk.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        optimise(rollout, learner, config, step=0, seed=5)
        forwards.append(len(seen))
        weights.append(nn.utils.parameters_to_vector(learner.policy.parameters()))
    assert forwards[1] == 2 * forwards[0]
    torch.testing.assert_close(weights[1], weights[0], atol=1e-7, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "autocast"])
def test_reduced_precision_points_where_fp32_does_and_keeps_fp32_weights(tiny_model, answers, precision):
    expected, config = learner_on(tiny_model(), config_with()), config_with(precision=precision)
    rollout, metrics = updated(expected, answers(8), config_with())
    learner = learner_on(tiny_model(), config)
    rough, rough_metrics = updated(learner, answers(8), config)
    torch.testing.assert_close(rough.policy_logprobs, rollout.policy_logprobs, atol=0.2, rtol=0.02)
    assert not torch.equal(rough.policy_logprobs, rollout.policy_logprobs)
    first = gradients_of(learner)[0], gradients_of(expected)[0]
    assert nn.functional.cosine_similarity(*first, dim=0) > 0.99
    assert rough_metrics["critic/loss"] == pytest.approx(metrics["critic/loss"], rel=0.1)
    for optimizer in (learner.policy_optimizer, learner.critic_optimizer):
        assert all(weight.dtype == torch.float32 for weight in optimizer.state()["weights"])


def test_in_bf16_passes_are_summed_in_fp32():
    """Summed in bf16, eight passes would lose what the later ones add."""
    layer, optimizer = one_weight(1.0, dtype=torch.bfloat16, max_grad_norm=1e9)
    for part in (1.0, *[2.0**-9] * 8):
        (part * layer.weight.sum()).backward()
    assert optimizer.clip().item() == pytest.approx(math.sqrt(2) * (1 + 2**-6), rel=1e-6)


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
        layer.weight.sum().backward()
        optimizer.clip()
        optimizer.step()
    assert torch.equal(torch.tensor(1.0).bfloat16() - 1e-4, torch.tensor(1.0).bfloat16())  # one step alone is lost
    torch.testing.assert_close(layer.weight.float(), torch.full((1, 2), 0.99), atol=2e-3, rtol=0)
    with optimizer.true_weights():
        torch.testing.assert_close(layer.weight.data, torch.full((1, 2), 0.99), atol=1e-5, rtol=0)
    assert layer.weight.dtype == torch.bfloat16  # and computing goes on in it


def test_casting_leaves_the_rotary_frequencies_alone(tiny_model):
    model = tiny_model()
    before = model.model.rotary_emb.inv_freq.clone()
    cast_parameters(model, torch.bfloat16)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
