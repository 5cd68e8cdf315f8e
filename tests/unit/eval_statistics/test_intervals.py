"""Intervals and tests against numbers worked out by hand, independent implementations, properties and a simulation of
coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import expit

from eval import statistics

TABLE = np.array([[1.0, 0.0, -1.0, 0.0], [1.0, 1.0, 0.0, 2.0]])  # two seeds, four items


def test_mean_squares_by_hand():
    # grand mean .5; seed means 0, 1; item means 1, .5, -.5, 1
    # SS_s = 4 (.25 + .25) = 2, SS_i = 2 (.25 + 0 + 1 + .25) = 3, SS_total = 6, so SS_e = 1; df 1, 3, 3
    squares = statistics.mean_squares(TABLE)
    assert squares.seeds * 8 == pytest.approx(2.0)
    assert squares.items * 8 == pytest.approx(1.0)
    assert squares.error * 8 == pytest.approx(1 / 3)


def test_crossed_interval_by_hand():
    estimate = statistics.crossed(TABLE)
    total = 2 + 1 - 1 / 3  # MS_s + MS_i - MS_e, larger than either
    df = total**2 / (2**2 / 1 + 1**2 / 3 + (1 / 3) ** 2 / 3)
    half = stats.t.ppf(0.975, df) * math.sqrt(total / 8)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.df == pytest.approx(df)
    assert estimate.ci95 == pytest.approx((0.5 - half, 0.5 + half))
    assert estimate.p == pytest.approx(2 * stats.t.sf(0.5 / math.sqrt(total / 8), df))
    assert estimate.method == "crossed"


def test_variance_never_falls_below_its_largest_part():
    # MS_s = 0, SS_i = 2 (1 + 0 + 1) = 4 so MS_i = 2; the interaction (+-1, 0, +-1 in turn) gives SS_e = 4, MS_e = 2 > MS_s + 0
    table = np.array([[2.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
    assert statistics.mean_squares(table).seeds == 0
    assert statistics.crossed(table).se == pytest.approx(math.sqrt(2 / 6))  # V = MS_i, not MS_s + MS_i - MS_e = 0


def test_changes_that_cancel_are_noise_not_certainty():
    # every row and column sums to 0, so MS_s = MS_i = 0; SS_e = 4 over 1 degree of freedom
    estimate = statistics.crossed(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert estimate.se == pytest.approx(math.sqrt(4 / 4))
    assert estimate.p == pytest.approx(1.0)


def test_one_seed_is_the_paired_t_interval():
    d = np.array([0.0, 1.0, 0.0, -1.0, 1.0, 1.0, 0.0])
    expected = stats.ttest_1samp(d, 0.0)
    estimate = statistics.crossed(d[None])
    assert estimate.method == "paired"
    assert estimate.p == pytest.approx(expected.pvalue)
    assert estimate.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert estimate.ci90 == pytest.approx(tuple(expected.confidence_interval(0.90)))


def test_clusters_give_statsmodels_cluster_robust_error():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    d = rng.normal(size=12)[clusters] + rng.normal(size=len(clusters))
    fit = sm.OLS(d, np.ones(len(d))).fit()
    robust = fit.get_robustcov_results("cluster", groups=clusters, use_correction=False)
    estimate = statistics.crossed(d[None], clusters.astype(str))
    assert estimate.method == "cluster"
    assert estimate.value == pytest.approx(d.mean())
    assert estimate.se == pytest.approx(robust.bse[0] * math.sqrt(12 / 11))  # G / (G - 1)
    assert estimate.df == pytest.approx(11)


def test_clusters_of_one_change_nothing():
    assert statistics.crossed(TABLE, list("abcd")) == statistics.crossed(TABLE)


tables = arrays(float, st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=st.integers(-3, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(table=tables, seed=st.integers(0, 99))
def test_order_of_items_and_seeds_does_not_matter(table, seed):
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(rng.permutation(table, axis=1), axis=0)
    one, other = statistics.crossed(table), statistics.crossed(shuffled)
    assert other.ci95 == pytest.approx(one.ci95, abs=1e-6)
    assert other.p == pytest.approx(one.p, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(table=tables)
def test_exchanging_the_sides_turns_the_interval_round(table):
    one, other = statistics.crossed(table), statistics.crossed(-table)
    assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(table=tables)
def test_a_group_of_one_task_is_that_task(table):
    one, other = statistics.crossed(table), statistics.group([table])
    assert other.value == pytest.approx(one.value)
    assert other.ci95 == pytest.approx(one.ci95, rel=1e-6, abs=1e-6)


def test_group_by_hand():
    other = np.array([[0.0, 1.0], [0.0, 0.0]])
    # seed means over the two tasks: (0 + .5) / 2 = .25 and (1 + 0) / 2 = .5, so A = .03125 / 2
    # task 2: means .25; SS_s = 2 (.0625 + .0625) = .25, SS_i = 2 (.0625 + .0625) = .25, SS_total = .75, SS_e = .25, all df 1
    a = 0.03125 / 2
    b = ((1 - 1 / 3) / 8 + 0.0) / 4
    c = (1 / 8 + 0.25 / 4) / 4
    estimate = statistics.group([TABLE, other])
    assert estimate.value == pytest.approx(0.375)
    assert estimate.se == pytest.approx(math.sqrt(max(a + b, a, c)))


def test_no_change_on_few_items_is_not_certainty():
    unchanged = statistics.crossed(np.zeros((1, 20)))
    widened = statistics.widen_if_unchanged(unchanged, 20)
    # 1 - .05^(1/20): the share that 20 items without a change still allow at one-sided 5 %
    assert widened.ci90 == pytest.approx((-0.1391, 0.1391), abs=1e-4)
    assert widened.ci95[1] == pytest.approx(0.1684, abs=1e-4)
    changed = statistics.crossed(np.array([[1.0, 0.0, -1.0]]))
    assert statistics.widen_if_unchanged(changed, 3) == changed


def test_bits_per_byte_is_a_ratio_of_sums_not_a_mean_of_ratios():
    reference, new, size = np.array([[8.0, 10.0]]), np.array([[10.0, 10.0]]), np.array([2.0, 10.0])
    estimate = statistics.ratio_change(reference, new, size)
    assert estimate.value == pytest.approx(20 / 12 - 18 / 12)  # a mean of ratios would give .5
    assert estimate.method == "bootstrap"


def test_ratio_bootstrap_agrees_with_the_delta_method():
    rng = np.random.default_rng(1)
    size = rng.integers(50, 300, 400).astype(float)
    change = size * rng.normal(0.02, 0.05, 400)
    estimate = statistics.ratio_change(np.zeros((1, 400)), change[None], size)
    ratio = change.sum() / size.sum()
    se = np.std(change - ratio * size, ddof=1) / size.mean() / math.sqrt(400)
    assert estimate.se == pytest.approx(se, rel=0.06)
    assert estimate.ci95 == pytest.approx((ratio - 1.96 * se, ratio + 1.96 * se), abs=0.12 * se + 0.0006)
    clustered = statistics.ratio_change(
        np.zeros((1, 400)), change[None], size, np.repeat(np.arange(100), 4).astype(str)
    )
    assert clustered.value == pytest.approx(estimate.value)


def test_ratio_bootstrap_sees_the_variance_between_seeds():
    size, rng = np.full(300, 100.0), np.random.default_rng(2)
    noise = rng.normal(0, 1, (4, 300))
    same, apart = noise.copy(), noise + np.array([[-6.0], [-2.0], [2.0], [6.0]])
    zero = np.zeros((4, 300))
    assert statistics.ratio_change(zero, apart, size).se > 5 * statistics.ratio_change(zero, same, size).se


def test_transitions_and_the_guessing_correction_by_hand():
    before = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 1, 1]])
    after = np.array([[1, 1, 0, 0, 0, 0, 1, 1, 1, 0]])
    counts = statistics.transitions(before, after)
    assert (counts.n11, counts.n10, counts.n01, counts.n00) == (3, 2, 2, 3)
    assert counts.forgetting == pytest.approx(0.2) and counts.backward_transfer == pytest.approx(0.2)
    assert counts.guessing(0.25) == pytest.approx(0.5 * 0.5 / 3)  # a0 = a1 = .5, k = 4
    assert counts.guessing(None) is None and counts.guessing(0.0) is None


def test_churn_floor_is_half_the_disagreement_between_seeds():
    assert statistics.churn_floor(np.array([[1, 1, 0, 0], [1, 0, 1, 0]])) == pytest.approx(0.25)
    assert statistics.churn_floor(np.array([[1, 1, 0, 0]])) is None


def test_mcnemar_is_the_exact_binomial():
    counts = statistics.Transitions(n11=50, n10=8, n01=1, n00=10)
    assert statistics.mcnemar(counts) == pytest.approx(2 * (1 + 9) / 2**9)  # 9 changed, 1 or fewer the other way
    assert statistics.mcnemar(statistics.Transitions(5, 0, 0, 5)) == 1.0


def test_corrections_for_many_tests_by_hand():
    assert statistics.adjust([0.01, 0.04, 0.03], "holm") == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.adjust([0.01, 0.04, 0.03], "fdr_bh") == pytest.approx([0.03, 0.04, 0.04])
    assert statistics.adjust([], "holm") == []


def simulate(rng: np.random.Generator, seeds: int, items: int, seed_effect: float) -> np.ndarray:
    """One experiment: a fixed base and `seeds` trained models answer `items` questions right (1) or wrong (0)."""
    ease = rng.normal(0, 1.5, items)
    base = rng.random(items) < expit(ease + 0.5)
    logit = ease + rng.normal(0, seed_effect, (seeds, 1)) + 0.7 * rng.normal(size=(seeds, items))
    return (rng.random((seeds, items)) < expit(logit)) - base.astype(float)


def test_crossed_interval_covers_where_an_interval_over_items_fails():
    rng, seed_effect, runs = np.random.default_rng(7), 0.6, 2000
    truth = np.mean([simulate(rng, 40, 2000, seed_effect).mean() for _ in range(60)])
    crossed, items_only = [], []
    for _ in range(runs):
        table = simulate(rng, 5, 200, seed_effect)
        low, high = statistics.crossed(table).ci95
        crossed.append(low <= truth <= high)
        low, high = statistics.crossed(table.mean(0)[None]).ci95
        items_only.append(low <= truth <= high)
    assert 0.92 <= np.mean(crossed) <= 0.985
    assert np.mean(items_only) < 0.8


def test_group_interval_covers_at_three_seeds():
    rng, runs, tasks = np.random.default_rng(8), 1000, 4
    truth = np.mean([simulate(rng, 40, 2000, 0.3).mean() for _ in range(60)])
    hits = []
    for _ in range(runs):
        low, high = statistics.group([simulate(rng, 3, 150, 0.3) for _ in range(tasks)]).ci95
        hits.append(low <= truth <= high)
    assert 0.9 <= np.mean(hits) <= 0.99
