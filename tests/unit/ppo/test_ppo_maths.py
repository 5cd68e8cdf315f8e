"""Every formula against numbers worked out by hand. A token outside the mask always carries an absurd value."""

import math

import pytest
import torch
from torch import tensor

from alignment.ppo import maths

LN2, LN3 = math.log(2), math.log(3)


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(actual, tensor(expected), atol=tolerance, rtol=0)


def test_masked_mean_ignores_padding():
    close(maths.masked_mean(tensor([[1.0, 3.0, 100.0]]), tensor([[True, True, False]])), 2.0)


def test_masked_mean_survives_infinite_padding():
    close(maths.masked_mean(tensor([[1.0, math.inf]]), tensor([[True, False]])), 1.0)


@pytest.mark.parametrize(("shift", "mean"), [(True, 0.0), (False, 2.0)])
def test_whitening_is_over_all_masked_tokens_of_the_batch(shift, mean):
    values = tensor([[1.0, 2.0, 100.0], [3.0, 100.0, 100.0]])
    mask = tensor([[True, True, False], [True, False, False]])
    unit = math.sqrt(1.5)  # mean 2, variance 2/3
    whitened = maths.whiten(values, mask, shift_mean=shift)
    close(whitened, [[-unit + mean, mean, 0.0], [unit + mean, 0.0, 0.0]])


def test_equal_numbers_whiten_to_zero():
    close(maths.whiten(tensor([[2.0, 2.0, 100.0]]), tensor([[True, True, False]])), [[0.0, 0.0, 0.0]])


def test_logprobs_divide_the_logits_by_the_temperature():
    logits = tensor([[0.0, LN3]])
    close(maths.token_logprobs(logits, tensor([1]), 1.0).exp(), [0.75])
    close(maths.token_logprobs(logits, tensor([1]), 0.5).exp(), [0.9])  # 3^2 / (1 + 3^2)


def test_logprobs_of_bf16_logits_are_computed_in_fp32():
    logits = torch.tensor([[8.0, 8.0, 8.0]], dtype=torch.bfloat16)
    close(maths.token_logprobs(logits, tensor([0]), 1.0), [-LN3])


def test_entropy():
    close(maths.entropy_of(tensor([0.0, LN3]), 1.0), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    close(maths.entropy_of(tensor([0.0, LN3]), 0.5), -(0.1 * math.log(0.1) + 0.9 * math.log(0.9)))


def test_kl_estimates_of_one_sample():
    p, q = tensor([math.log(0.5)]), tensor([math.log(0.25)])
    close(maths.k1(p, q), [LN2])
    close(maths.k2(p, q), [LN2**2 / 2])
    close(maths.k3(p, q), [0.5 - 1 + LN2])


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    p, q = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.2, 0.6])
    true = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(1 / 3)
    close((p * maths.k1(p.log(), q.log())).sum(), true)
    close((p * maths.k3(p.log(), q.log())).sum(), true)
    p, q = tensor([0.9, 0.1]), tensor([0.1, 0.9])  # KL = .8 ln 9 = 1.76, but every sample's k2 is (ln 9)^2 / 2
    close((p * maths.k2(p.log(), q.log())).sum(), math.log(9) ** 2 / 2)


@pytest.mark.parametrize(
    ("sequence_kl", "expected"),
    [(9.0, 0.1 * (1 + 0.2 * 0.064)), (5.4, 0.1 * (1 - 0.1 * 0.064)), (0.0, 0.1 * (1 - 0.2 * 0.064))],
)
def test_adaptive_coefficient_clips_the_error_at_a_fifth(sequence_kl, expected):
    assert maths.adapted_coefficient(0.1, sequence_kl, 6.0, 1000, 64) == pytest.approx(expected)


def test_missing_eos_replaces_or_subtracts():
    scores, finished = tensor([2.0, 3.0]), tensor([True, False])
    close(maths.with_missing_eos(scores, finished, "replace", -1.0), [2.0, -1.0])
    close(maths.with_missing_eos(scores, finished, "subtract", 1.0), [2.0, 2.0])


def test_the_score_lands_on_the_last_response_token():
    kl = tensor([[0.1, 0.2, 9.0], [0.1, 0.2, 0.4]])
    mask = tensor([[True, True, False], [True, True, True]])
    rewards = maths.token_rewards(tensor([2.0, -1.0]), kl, mask, 0.5)
    close(rewards, [[-0.05, 1.9, 0.0], [-0.05, -0.1, -1.2]])


def test_gae_by_hand():
    # Right to left: delta = .7, -.1, -.1; A_t = delta_t + .95 A_{t+1}. The value after the last token is 0, not the pad's 9.
    rewards, values = tensor([[0.0, 0.0, 1.0, 9.0]]), tensor([[0.5, 0.4, 0.3, 9.0]])
    mask = tensor([[True, True, True, False]])
    advantages, returns = maths.gae(rewards, values, mask, 1.0, 0.95)
    close(advantages, [[0.43675, 0.565, 0.7, 0.0]])
    close(returns, [[0.93675, 0.965, 1.0, 0.0]])


def test_gae_discounts():
    advantages, _ = maths.gae(tensor([[0.0, 0.0, 1.0]]), tensor([[0.5, 0.4, 0.3]]), torch.ones(1, 3).bool(), 0.9, 0.95)
    close(advantages, [[-0.14 + 0.855 * 0.4685, -0.13 + 0.855 * 0.7, 0.7]])


def test_gae_with_lambda_one_gives_the_sum_of_rewards_as_return():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, 7, generator=generator), torch.randn(3, 7, generator=generator)
    mask = torch.arange(7) < tensor([[7], [4], [1]])
    _, returns = maths.gae(rewards, values, mask, 1.0, 1.0)
    for row, length in enumerate((7, 4, 1)):
        close(returns[row, :length], [float(rewards[row, t:length].sum()) for t in range(length)], 1e-5)


def test_gae_of_a_row_does_not_depend_on_its_padding():
    rewards, values, mask = torch.randn(2, 5), torch.randn(2, 5), torch.arange(5) < tensor([[3], [5]])
    short, _ = maths.gae(rewards[:1, :3], values[:1, :3], mask[:1, :3], 0.99, 0.9)
    long, _ = maths.gae(rewards, values, mask, 0.99, 0.9)
    assert torch.equal(short[0], long[0, :3])


def test_importance_weights_per_token_and_per_sequence():
    trainer = tensor([[math.log(1.5), math.log(4.0), 50.0], [math.log(0.5), math.log(0.5), 50.0]])
    mask = tensor([[True, True, False], [True, True, False]])
    token = maths.importance_weights(trainer, torch.zeros_like(trainer), mask, 2.0, "token")
    close(token[:, :2], [[1.5, 2.0], [0.5, 0.5]])
    sequence = maths.importance_weights(trainer, torch.zeros_like(trainer), mask, 2.0, "sequence")
    close(sequence[:, :2], [[2.0, 2.0], [0.25, 0.25]])


def two_token_policy_loss(log_ratios, advantages, **options):
    new = tensor([[*log_ratios, 7.0]], requires_grad=True)
    advantages = tensor([[*advantages, 9.0]])
    loss, metrics = maths.policy_loss(
        new, torch.zeros(1, 3), advantages, tensor([[True, True, False]]), clip=0.2, **options
    )
    loss.backward()
    return loss, metrics, new.grad


def test_policy_loss_of_two_clipped_tokens():
    loss, metrics, gradient = two_token_policy_loss([math.log(1.5), math.log(0.5)], [1.0, -1.0])
    close(loss, (-1.2 + 0.8) / 2)
    close(gradient, [[0.0, 0.0, 0.0]])  # both clipped: nothing more to gain
    close(metrics["policy/clip_fraction"], 1.0)
    close(metrics["policy/ratio"], 1.0)
    close(metrics["policy/approx_kl"], (0.5 - math.log(1.5) - 0.5 + LN2) / 2)


def test_policy_loss_raises_what_was_better_and_lowers_what_was_worse():
    _, metrics, gradient = two_token_policy_loss([0.0, 0.0], [1.0, -2.0])
    close(gradient, [[-0.5, 1.0, 0.0]])
    close(metrics["policy/clip_fraction"], 0.0)


def test_policy_loss_does_not_clip_what_moved_the_wrong_way():
    loss, _, gradient = two_token_policy_loss([math.log(0.5), math.log(1.5)], [1.0, -1.0])
    close(loss, (-0.5 + 1.5) / 2)
    close(gradient, [[-0.25, 0.75, 0.0]])


def test_dual_clip_bounds_the_loss_where_the_advantage_is_negative():
    loss, _, gradient = two_token_policy_loss([math.log(5.0), 0.0], [-1.0, 0.0], dual_clip=3.0)
    close(loss, 3.0 / 2)
    close(gradient, [[0.0, 0.0, 0.0]])


def test_importance_weights_scale_the_loss():
    loss, _, _ = two_token_policy_loss([0.0, 0.0], [1.0, -2.0], weights=tensor([[0.5, 2.0, 9.0]]))
    close(loss, (-0.5 + 4.0) / 2)


def test_policy_loss_stays_finite_for_a_token_that_became_impossible():
    loss, _, gradient = two_token_policy_loss([-1000.0, 1000.0], [-1.0, 1.0])
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_losses_of_parts_add_up_to_that_of_the_minibatch():
    new, old, advantages = torch.randn(4, 6), torch.randn(4, 6), torch.randn(4, 6)
    mask = torch.arange(6) < tensor([[6], [3], [2], [1]])
    whole, _ = maths.policy_loss(new, old, advantages, mask, clip=0.2)
    parts = [
        maths.policy_loss(new[[b]], old[[b]], advantages[[b]], mask[[b]], clip=0.2, tokens=12)[0] for b in range(4)
    ]
    torch.testing.assert_close(sum(parts), whole)
    whole, _ = maths.value_loss(new, old, advantages, mask, clip=0.2)
    parts = [maths.value_loss(new[[b]], old[[b]], advantages[[b]], mask[[b]], clip=0.2, tokens=12)[0] for b in range(4)]
    torch.testing.assert_close(sum(parts), whole)


def test_value_loss_takes_the_worse_of_clipped_and_unclipped():
    # Token 1 is right but jumped by .5: judged as .7 against 1. Token 2: judged as it is, its clipped twin is nearer.
    values = tensor([[1.0, 0.0, 9.0]], requires_grad=True)
    loss, metrics = maths.value_loss(
        values, tensor([[0.5, 0.5, 0.0]]), tensor([[1.0, 1.0, 0.0]]), tensor([[True, True, False]]), clip=0.2
    )
    loss.backward()
    close(loss, 0.5 * (0.09 + 1.0) / 2)
    close(values.grad, [[0.0, -0.5, 0.0]])
    close(metrics["critic/clip_fraction"], 0.5)


def test_value_loss_without_clip_is_half_the_squared_error():
    loss, metrics = maths.value_loss(
        tensor([[1.0, 9.0]]), tensor([[0.0, 0.0]]), tensor([[3.0, 0.0]]), tensor([[True, False]]), clip=None
    )
    close(loss, 2.0)
    close(metrics["critic/clip_fraction"], 0.0)


def test_explained_variance():
    mask = tensor([[True, True, False]])
    close(maths.explained_variance(tensor([[0.0, 1.0, 9.0]]), tensor([[0.0, 2.0, -9.0]]), mask), 0.75)
