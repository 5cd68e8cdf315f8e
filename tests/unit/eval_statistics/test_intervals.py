"""The crossed interval against numbers worked out by hand, and a simulation of its coverage (more of it:
benchmarks/statistics)."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from eval import statistics
from eval.bootstrap import ratio_change
from eval.verdict import retained_verdict, settling_designs

TABLE = np.array([[1.0, 0.0, -1.0, 0.0], [1.0, 1.0, 0.0, 2.0]])  # two seeds, four items


def test_mean_squares_by_hand():
    # grand mean .5; seed means 0, 1; item means 1, .5, -.5, 1
    # SS_s = 4 (.25 + .25) = 2, SS_i = 2 (.25 + 0 + 1 + .25) = 3, SS_total = 6, so SS_e = 1; df 1, 3, 3
    squares = statistics.mean_squares(TABLE)
    assert squares.seeds * 8 == pytest.approx(2.0)
    assert squares.items * 8 == pytest.approx(1.0)
    assert squares.error * 8 == pytest.approx(1 / 3)


def test_crossed_interval_by_hand():
    table = np.array([[1.0, -2.0, 0.0, 3.0], [2.0, -3.0, 1.0, 1.0]])
    # seed means .5, .25, item means 1.5, -2.5, .5, 2, grand mean .375: SS_s = 4 (2 .125^2) = .125,
    # SS_i = 2 (1.125^2 + 2.875^2 + .125^2 + 1.625^2) = 24.375, SS_total = 29 - 8 .375^2 = 27.875, so SS_e = 3.375
    seeds, items, error = 0.125, 8.125, 1.125
    total = items  # larger than MS_s + MS_i - MS_e, and than MS_s
    df = total**2 / (seeds**2 / 1 + items**2 / 3 + error**2 / 3)
    half = stats.t.ppf(0.975, df) * math.sqrt(total / 8)
    estimate = statistics.crossed(table)
    assert estimate.value == pytest.approx(0.375)
    assert estimate.df == pytest.approx(df)
    assert half > stats.t.ppf(0.975, 1) * math.sqrt(seeds / 8)  # wider than the seeds' own interval
    assert estimate.ci95 == pytest.approx((0.375 - half, 0.375 + half))
    assert estimate.p == pytest.approx(2 * stats.t.sf(0.375 / math.sqrt(total / 8), df))
    assert estimate.p_above(0.1) == pytest.approx(stats.t.sf((0.375 - 0.1) / math.sqrt(total / 8), df))
    assert estimate.method == "crossed"


def test_the_interval_is_never_narrower_than_that_of_the_seeds_alone():
    # MS_s = 2, and V = 2 + 1 - 1/3 with 1.6 degrees of freedom would give +-3.1; the seeds' means 0 and 1 alone +-6.4
    estimate, seeds = statistics.crossed(TABLE), stats.ttest_1samp([0.0, 1.0], 0.0)
    assert estimate.ci95 == pytest.approx(tuple(seeds.confidence_interval(0.95)))
    assert estimate.ci90 == pytest.approx(tuple(seeds.confidence_interval(0.90)))
    assert estimate.p == pytest.approx(seeds.pvalue)
    assert estimate.p_above(-3.0) == pytest.approx(stats.t.cdf(-3.5 / 0.5, 1))
    assert estimate.se == pytest.approx(math.sqrt((2 + 1 - 1 / 3) / 8))  # still the error of the mean


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


@pytest.mark.parametrize(
    ("table", "clusters"),
    [(TABLE[:1, :1], None), (TABLE[:, :1], None), (TABLE[:1], list("aaaa")), (TABLE, list("aaaa"))],
)
def test_one_item_or_one_cluster_tells_nothing_about_others(table, clusters):
    estimate = statistics.crossed(table, clusters)
    assert estimate.value == pytest.approx(table.mean()) and estimate.p == 1.0
    assert estimate.ci95 == estimate.ci90 == (-math.inf, math.inf)
    assert retained_verdict(estimate, estimate.p, margin=0.05).word == "inconclusive"
    assert settling_designs(estimate, margin=0.05) == []


def test_a_ratio_of_one_document_tells_nothing_about_others():
    estimate = ratio_change(np.array([[10.0, 20.0, 30.0]]), np.array([[11.0, 22.0, 35.0]]), np.full(3, 5.0), ["a"] * 3)
    assert estimate.ci95 == (-math.inf, math.inf) and estimate.p == estimate.p_above(-0.01) == 1.0


def test_the_method_says_what_was_drawn():
    row, labels = np.array([[0.0, 1.0, 1.0, 0.0]]), list("aabb")
    assert statistics.crossed(row).method == "paired" and statistics.crossed(row, labels).method == "cluster"
    assert statistics.crossed(TABLE, labels).method == "crossed"
    assert statistics.group([row, row]).method == "paired"
    assert statistics.group([row, row], [None, np.array(labels)]).method == "cluster"


def test_clusters_of_one_change_nothing():
    assert statistics.crossed(TABLE, list("abcd")) == statistics.crossed(TABLE)


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
    widened = statistics.widen_if_unchanged(statistics.crossed(np.zeros((1, 20))))
    # 1 - .05^(1/20): the share that 20 items without a change still allow at one-sided 5 %
    assert widened.ci90 == pytest.approx((-0.1391, 0.1391), abs=1e-4)
    assert widened.ci95[1] == pytest.approx(0.1684, abs=1e-4)
    assert widened.p_above(-0.1391) == pytest.approx(0.05, abs=1e-4) and widened.p_above(0.0) == 1.0
    changed = statistics.crossed(np.array([[1.0, 0.0, -1.0]]))
    assert statistics.widen_if_unchanged(changed) == changed


def test_clusters_without_a_change_count_once_each():
    labels = np.repeat(np.arange(5), 4)
    widened = statistics.widen_if_unchanged(statistics.crossed(np.zeros((1, 20)), labels))
    assert widened.ci90[1] == pytest.approx(1 - 0.05 ** (1 / 5))


def test_a_small_task_without_a_change_says_little_about_the_mean():
    # 10 and 1,000 items. All the change that goes unseen may sit in the small task: .05^(1/10) leaves a rate of .26 there,
    # a mean of .13; counting 1,010 items alike would claim .003
    widened = statistics.widen_if_unchanged(statistics.group([np.zeros((1, 10)), np.zeros((1, 1000))]))
    assert widened.ci90[1] == pytest.approx(1 - 0.05 ** (1 / 20))
    assert widened.ci90[1] > (1 - 0.05 ** (1 / 10)) / 2


def test_a_constant_change_is_certain():
    estimate = statistics.crossed(np.full((1, 4), 0.5))
    assert estimate.ci95 == (0.5, 0.5) and estimate.p == 0.0
    assert (estimate.p_above(0.4), estimate.p_above(0.6)) == (0.0, 1.0)
    assert (estimate.p_below(0.4), estimate.p_below(0.6)) == (1.0, 0.0)


def test_nothing_to_correct_gives_nothing():
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
