"""Two-way bootstrap: weights and replicates against exact distributions of tiny tables, and ratios of sums."""

import math
import tracemalloc

import numpy as np
import pytest

from eval import bootstrap
from eval.bootstrap import ratio_change, resampled_means, seed_draws


def fixed_seeds(n_seeds: int, replicates: int) -> np.ndarray:
    """Every seed counts the same in every replicate."""
    return np.full((replicates, n_seeds), 1 / n_seeds)


def test_seed_weights_are_draws_with_replacement():
    weights = seed_draws(3, 9000, np.random.default_rng(0))
    assert weights.shape == (9000, 3)
    assert weights.sum(1) == pytest.approx(1.0)
    assert set(np.round(weights * 3, 9).ravel()) == {0.0, 1.0, 2.0, 3.0}
    # each of 27 draws is as likely: (1, 1, 1) by 6 of them, one seed alone by 3
    each = np.isclose(weights, 1 / 3).all(1).mean()
    alone = np.isclose(weights, 1.0).any(1).mean()
    assert each == pytest.approx(6 / 27, abs=0.018) and alone == pytest.approx(3 / 27, abs=0.014)


def test_one_seed_is_always_itself():
    assert (seed_draws(1, 50, np.random.default_rng(0)) == 1).all()


def test_two_items_give_the_three_means_that_two_draws_can():
    scores = np.array([[[0.0, 1.0]]])
    means = resampled_means(scores, fixed_seeds(1, 20_000), np.random.default_rng(1))
    assert means.shape == (20_000, 1)
    shares = {value: np.isclose(means, value).mean() for value in (0.0, 0.5, 1.0)}
    assert sum(shares.values()) == 1
    assert shares == pytest.approx({0.0: 0.25, 0.5: 0.5, 1.0: 0.25}, abs=0.015)


def test_clusters_are_drawn_whole_and_the_mean_is_over_the_items_drawn():
    scores = np.array([[[0.0, 4.0, 4.0, 4.0]]])  # cluster a: one item; cluster b: three
    means = resampled_means(scores, fixed_seeds(1, 8000), np.random.default_rng(2), ["a", "b", "b", "b"])
    shares = {value: np.isclose(means, value).mean() for value in (0.0, 3.0, 4.0)}  # aa, ab or ba, bb
    assert sum(shares.values()) == 1  # a mean of cluster means would give 2 for ab
    assert shares == pytest.approx({0.0: 0.25, 3.0: 0.5, 4.0: 0.25}, abs=0.025)


def test_clusters_of_one_item_are_the_items():
    scores, labels = np.random.default_rng(0).normal(size=(2, 3, 20)), [f"{item:02}" for item in range(20)]
    one = resampled_means(scores, fixed_seeds(2, 30), np.random.default_rng(5))
    assert resampled_means(scores, fixed_seeds(2, 30), np.random.default_rng(5), labels) == pytest.approx(one)


def test_seeds_and_points_share_the_items_drawn():
    rng = np.random.default_rng(3)
    easy = rng.normal(size=50)
    scores = np.array([[easy, 2 * easy + 1], [easy - 7, 3 * easy]])  # [seed, point, item]
    first, second = np.tile([1.0, 0.0], (200, 1)), np.tile([0.0, 1.0], (200, 1))
    draws = [resampled_means(scores, weights, np.random.default_rng(4)) for weights in (first, second)]
    assert draws[0][:, 0].std() > 0.05
    assert draws[0][:, 1] == pytest.approx(2 * draws[0][:, 0] + 1)
    assert draws[1][:, 0] == pytest.approx(draws[0][:, 0] - 7)
    assert draws[1][:, 1] == pytest.approx(3 * draws[0][:, 0])


def test_spread_is_that_of_independent_draws_of_seeds_and_items():
    # d = a_s + b_i + e_si with sums 0. The mean of S drawn rows and n drawn columns has, exactly, the variance
    # var(a) / S + var(b) / n + var(e) / (S n), variances with denominators S, n and S n.
    seeds, items = np.array([[-1.0], [0.0], [1.0]]), np.array([[3.0, -1.0, -2.0, 0.0]])
    rest = np.array([[1.0, -1.0, 0.0, 0.0], [-1.0, 1.0, 1.0, -1.0], [0.0, 0.0, -1.0, 1.0]]) * 2
    expected = (2 / 3) / 3 + (14 / 4) / 4 + (4 * 8 / 12) / 12
    rng = np.random.default_rng(6)
    draws = resampled_means((seeds + items + rest)[:, None], seed_draws(3, 40_000, rng), rng)
    assert draws.mean() == pytest.approx(0.0, abs=0.02)
    assert draws.var() == pytest.approx(expected, rel=0.03)


def test_blocks_do_not_show(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(3, 2, 40))
    whole = resampled_means(scores, fixed_seeds(3, 25), np.random.default_rng(9))
    monkeypatch.setattr(bootstrap, "_BLOCK", 120)  # three replicates at a time, one at the end
    assert resampled_means(scores, fixed_seeds(3, 25), np.random.default_rng(9)) == pytest.approx(whole)


def test_memory_does_not_grow_with_the_replicates():
    scores = np.random.default_rng(0).normal(size=(5, 1, 2000))
    tracemalloc.start()
    resampled_means(scores, fixed_seeds(5, 3000), np.random.default_rng(0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6  # the counts of all replicates would be 48 MB


def test_bits_per_byte_is_a_ratio_of_sums_not_a_mean_of_ratios():
    reference, new, size = np.array([[8.0, 10.0]]), np.array([[10.0, 10.0]]), np.array([2.0, 10.0])
    estimate = ratio_change(reference, new, size)
    assert estimate.value == pytest.approx(20 / 12 - 18 / 12)  # a mean of ratios would give .5
    assert estimate.method == "bootstrap"
    assert estimate.draws is not None and set(np.round(estimate.draws, 9)) == {0.0, round(2 / 12, 9), 1.0}


def test_ratio_bootstrap_agrees_with_the_delta_method():
    rng = np.random.default_rng(1)
    size = rng.integers(50, 300, 400).astype(float)
    change = size * rng.normal(0.02, 0.05, 400)
    estimate = ratio_change(np.zeros((1, 400)), change[None], size)
    ratio = change.sum() / size.sum()
    se = np.std(change - ratio * size, ddof=1) / size.mean() / math.sqrt(400)
    assert estimate.se == pytest.approx(se, rel=0.06)
    assert estimate.ci95 == pytest.approx((ratio - 1.96 * se, ratio + 1.96 * se), abs=0.12 * se + 0.0006)
    clustered = ratio_change(np.zeros((1, 400)), change[None], size, np.repeat(np.arange(100), 4).astype(str))
    assert clustered.value == pytest.approx(estimate.value)


def test_ratio_bootstrap_sees_the_variance_between_seeds():
    size, rng = np.full(300, 100.0), np.random.default_rng(2)
    noise = rng.normal(0, 1, (4, 300))
    same, apart = noise.copy(), noise + np.array([[-6.0], [-2.0], [2.0], [6.0]])
    zero = np.zeros((4, 300))
    assert ratio_change(zero, apart, size).se > 5 * ratio_change(zero, same, size).se


def test_p_values_of_a_bootstrap_count_its_replicates():
    rng = np.random.default_rng(3)
    size = np.full(60, 10.0)
    estimate = ratio_change(np.zeros((1, 60)), rng.normal(1.0, 6.0, (1, 60)), size, replicates=999)
    assert estimate.draws is not None
    low90, high90 = estimate.ci90
    assert estimate.p_above(low90) == pytest.approx(0.05, abs=0.003)  # the lower end of the 90 % interval
    assert estimate.p_below(high90) == pytest.approx(0.05, abs=0.003)
    assert estimate.p_above(-9.0) == pytest.approx(1 / 1000) and estimate.p_above(9.0) == 1.0
