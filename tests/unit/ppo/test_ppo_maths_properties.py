"""Every formula on arbitrary numbers against plain Python in double precision (plain_ppo.py), absurd values in the padding."""

import math

import plain_ppo
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from alignment.ppo import maths

ABSURD = 1e6
small = st.floats(-3, 3, width=32, allow_subnormal=False)


def rows_of(numbers, columns=1):
    """Ragged rows of `columns` numbers a token: 1 to 4 answers of 1 to 6 tokens."""
    token = st.tuples(*[numbers] * columns)
    return st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=4)


def grids(rows):
    """Ragged rows of tuples -> a grid [B, T] for each of their columns, and the mask."""
    columns = zip(*[zip(*row, strict=True) for row in rows], strict=True)
    padded = [
        nn.utils.rnn.pad_sequence([tensor(list(part)) for part in column], batch_first=True, padding_value=ABSURD)
        for column in columns
    ]
    lengths = tensor([len(row) for row in rows])
    return [*padded, torch.arange(int(lengths.max())) < lengths[:, None]]


def close(grid, mask, rows, tolerance=1e-4):
    expected = tensor([number for row in rows for number in row], dtype=torch.double)
    torch.testing.assert_close(grid.detach()[mask].double(), expected, atol=tolerance, rtol=tolerance)


@settings(deadline=None)
@given(rows_of(small), st.booleans())
def test_whitening(rows, shift_mean):
    grid, mask = grids(rows)
    numbers = [[number for (number,) in row] for row in rows]
    assume(grid[mask].double().std(correction=0) > 1e-2)  # below, fp32 has nothing left of the differences
    whitened = maths.whiten(grid, mask, shift_mean)
    close(whitened, mask, plain_ppo.whiten(numbers, shift_mean), 1e-3)
    assert (whitened[~mask] == 0).all()


@settings(deadline=None)
@given(rows_of(small, 2), st.floats(0.1, 1), st.floats(0, 1))
def test_gae(rows, gamma, lam):
    rewards, values, mask = grids(rows)
    advantages, returns = maths.gae(rewards, values, mask, gamma, lam)
    expected = [plain_ppo.advantages_of([r for r, _ in row], [v for _, v in row], gamma, lam) for row in rows]
    close(advantages, mask, expected)
    close(
        returns, mask, [[a + v for a, (_, v) in zip(*pair, strict=True)] for pair in zip(expected, rows, strict=True)]
    )
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


@settings(deadline=None)
@given(rows_of(small), st.floats(0, 1), st.data())
def test_rewards_of_tokens(rows, beta, data):
    kl, mask = grids(rows)
    scores = data.draw(st.lists(small, min_size=len(rows), max_size=len(rows)))
    expected = [[-beta * one for (one,) in row] for row in rows]
    for row, score in zip(expected, scores, strict=True):
        row[-1] += score
    rewards = maths.token_rewards(tensor(scores), kl, mask, beta)
    close(rewards, mask, expected)
    assert (rewards[~mask] == 0).all()


@settings(deadline=None)
@given(rows_of(small, 2), st.floats(1, 4), st.sampled_from(["token", "sequence"]))
def test_importance_weights(rows, cap, level):
    trainer, sampler, mask = grids(rows)
    expected = []
    for row in rows:
        ratios = [math.exp(a - b) for a, b in row]
        expected.append([min(r if level == "token" else math.prod(ratios), cap) for r in ratios])
    close(maths.importance_weights(trainer, sampler, mask, cap, level), mask, expected)


@settings(deadline=None)
@given(rows_of(st.tuples(small, small, small, st.floats(0, 2, width=32))), st.sampled_from([None, 1.5, 3.0]))
def test_policy_loss_and_its_gradient(rows, dual):
    tokens = [numbers for row in rows for (numbers,) in row]
    new, old, advantages, weights, mask = grids([[numbers for (numbers,) in row] for row in rows])
    ratios = [math.exp(a - b) for a, b, _, _ in tokens]
    edges = (0.8, 1.2) if dual is None else (0.8, 1.2, dual)
    assume(
        all(abs(ratio - edge) > 1e-4 for ratio in ratios for edge in edges)
    )  # on a kink either side's slope is right
    plain = [plain_ppo.policy_loss(a - b, advantage, 0.2, dual) for a, b, advantage, _ in tokens]
    loss, metrics = maths.policy_loss(
        new.requires_grad_(), old, advantages, mask, clip=0.2, dual_clip=dual, weights=weights
    )
    loss.backward()
    many, weight = len(tokens), [token[3] for token in tokens]
    expected = sum(w * one for (one, _), w in zip(plain, weight, strict=True)) / many
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-3, rel=1e-4)
    close(new.grad, mask, [[w * slope / many for (_, slope), w in zip(plain, weight, strict=True)]], 1e-3)
    assert (new.grad[~mask] == 0).all()
    assert float(metrics["policy/ratio"]) == pytest.approx(sum(ratios) / many, rel=1e-4)
    step_kl = sum(ratio - 1 - math.log(ratio) for ratio in ratios) / many
    assert float(metrics["policy/approx_kl"]) == pytest.approx(step_kl, rel=1e-4, abs=1e-5)
    clipped = sum(r > 1.2 if a > 0 else r < 0.8 and a < 0 for r, (_, _, a, _) in zip(ratios, tokens, strict=True))
    assert float(metrics["policy/clip_fraction"]) == pytest.approx(clipped / many)


@settings(deadline=None)
@given(rows_of(small, 3), st.sampled_from([None, 0.2]))
def test_value_loss_and_its_gradient(rows, clip):
    values, old, targets, mask = grids(rows)
    tokens = [token for row in rows for token in row]
    for value, before, target in tokens:  # on a kink either side's slope is right
        near = before + min(max(value - before, -0.2), 0.2)
        assume(clip is None or (abs(abs(value - before) - 0.2) > 1e-4 and abs((value + near) / 2 - target) > 1e-4))
    plain = [plain_ppo.value_loss(*token, clip) for token in tokens]
    loss, _ = maths.value_loss(values.requires_grad_(), old, targets, mask, clip=clip)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(sum(one for one, _ in plain) / len(tokens), abs=1e-4, rel=1e-4)
    close(values.grad, mask, [[slope / len(tokens) for _, slope in plain]])
    assert (values.grad[~mask] == 0).all()


@settings(deadline=None)
@given(rows_of(small, 2))
def test_explained_variance(rows):
    values, targets, mask = grids(rows)
    tokens = [token for row in rows for token in row]

    def variance(numbers):
        mean = sum(numbers) / len(numbers)
        return sum((number - mean) ** 2 for number in numbers) / len(numbers)

    if variance([target for _, target in tokens]) > 1e-3:
        expected = 1 - variance([target - value for value, target in tokens]) / variance(
            [target for _, target in tokens]
        )
        assert float(maths.explained_variance(values, targets, mask)) == pytest.approx(expected, rel=1e-3, abs=1e-3)


@settings(deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=6), st.floats(0.3, 3))
def test_logprobs_and_entropy_of_logits(numbers, temperature):
    expected = plain_ppo.log_softmax([number / temperature for number in numbers])
    every = torch.arange(len(numbers))
    logprobs = maths.token_logprobs(tensor(numbers).expand(len(numbers), -1), every, temperature)
    torch.testing.assert_close(logprobs.double(), tensor(expected, dtype=torch.double), atol=1e-4, rtol=1e-5)
    assert float(maths.entropy_of(tensor(numbers), temperature)) == pytest.approx(plain_ppo.entropy(expected), abs=1e-4)


distributions = st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)), min_size=2, max_size=6)


@given(distributions)
def test_k1_and_k3_average_to_the_kl_over_every_outcome_and_k3_is_never_negative(pairs):
    p, q = (tensor(column, dtype=torch.double) / sum(column) for column in zip(*pairs, strict=True))
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    estimates = {estimate.__name__: estimate(p.log(), q.log()) for estimate in (maths.k1, maths.k2, maths.k3)}
    assert float((p * estimates["k1"]).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((p * estimates["k3"]).sum()) == pytest.approx(exact, abs=1e-12)
    assert (estimates["k3"] >= 0).all()
    squares = [math.log(a / b) ** 2 / 2 for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert estimates["k2"].tolist() == pytest.approx(squares)


@given(distributions)
def test_the_gradient_of_k1_in_the_reward_is_that_of_the_kl_and_k2s_is_not(pairs):
    """REINFORCE with the reward -k: sum over outcomes of p grad log p * k, which for k1 is the gradient of KL(p, q)."""
    logits = tensor([math.log(a) for a, _ in pairs], dtype=torch.double, requires_grad=True)
    q = tensor([b for _, b in pairs], dtype=torch.double)
    q = q / q.sum()
    logprobs = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((logprobs.exp() * (logprobs - q.log())).sum(), logits, retain_graph=True)
    estimate = maths.k1(logprobs, q.log()).detach()
    (by_reward,) = torch.autograd.grad((logprobs.exp().detach() * logprobs * estimate).sum(), logits)
    torch.testing.assert_close(by_reward, exact, atol=1e-12, rtol=1e-9)
