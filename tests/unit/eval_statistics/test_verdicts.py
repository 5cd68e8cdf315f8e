"""Verdicts at their boundaries, and plans for an open question."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from eval import statistics
from eval.statistics import MeanSquares, Parts
from eval.verdict import (
    Design,
    detectable,
    detectable_at,
    detectable_difference,
    p_equivalent,
    p_retained,
    power,
    retained_verdict,
    settling_designs,
    target_verdict,
)

ANY = statistics.crossed(np.array([[1.0, 0.0, -1.0]]))


def estimate(value: float, low90: float, high90: float):
    return replace(ANY, value=value, ci90=(low90, high90))


@pytest.mark.parametrize(
    ("value", "low90", "high90", "p", "expected"),
    [
        (-0.01, -0.049, 0.03, 0.60, "retained"),
        (-0.01, -0.05, 0.03, 0.60, "inconclusive"),  # the bound must lie above -margin
        (-0.03, -0.045, -0.01, 0.01, "retained (small loss)"),
        (-0.08, -0.10, -0.06, 0.01, "forgot"),
        (-0.08, -0.10, -0.06, 0.06, "inconclusive"),  # not significant after Holm
        (0.08, 0.06, 0.10, 0.01, "retained (gain)"),
        (0.08, -0.06, 0.20, 0.04, "inconclusive"),
    ],
)
def test_retained_verdicts(value, low90, high90, p, expected):
    assert str(retained_verdict(estimate(value, low90, high90), p, 0.05)) == expected


def test_lower_is_better_turns_the_verdict_round():
    rose = estimate(0.08, 0.06, 0.10)  # bits per byte went up: a loss
    assert str(retained_verdict(rose, 0.01, 0.05, higher_is_better=False)) == "forgot"
    assert str(retained_verdict(rose, 0.01, 0.05, higher_is_better=True)) == "retained (gain)"
    assert str(target_verdict(rose, 0.01, 0.05, higher_is_better=False)) == "lost"


@pytest.mark.parametrize(
    ("value", "low90", "high90", "p", "expected"),
    [
        (0.2, 0.1, 0.3, 0.001, "gained"),
        (-0.2, -0.3, -0.1, 0.001, "lost"),
        (0.01, -0.03, 0.045, 0.5, "unchanged"),
        (0.03, -0.01, 0.06, 0.3, "inconclusive"),
    ],
)
def test_target_verdicts(value, low90, high90, p, expected):
    assert str(target_verdict(estimate(value, low90, high90), p, 0.05)) == expected


def test_detectable_effect_is_found_four_times_in_five():
    """Against the exact power of the two-sided t test (noncentral t)."""
    df, se = 30, 0.02
    effect = detectable(se, df)
    assert stats.nct.sf(stats.t.ppf(0.975, df), df, effect / se) == pytest.approx(0.8, abs=1e-6)


def test_power_of_several_seeds_is_that_of_simulated_mean_squares():
    """Independent of the quadrature: draw the three mean squares and the mean, and test as `crossed` does."""
    rng, runs = np.random.default_rng(0), 20_000
    seeds, items, error, n_seeds, n_items = 0.4, 0.7, 0.2, 3, 300
    parts = Parts(seeds, (MeanSquares(seeds, items, error, n_seeds, n_items),))
    effect = detectable_at(parts)
    a = seeds * rng.chisquare(2, runs) / 2
    i = items * rng.chisquare(299, runs) / 299
    e = error * rng.chisquare(598, runs) / 598
    mean = rng.normal(effect, math.sqrt(seeds + items - error), runs)
    v = np.maximum(a + i - e, np.maximum(a, i))
    df = v**2 / (a**2 / 2 + i**2 / 299 + e**2 / 598)
    found = (mean > stats.t.ppf(0.975, df) * np.sqrt(v)) & (mean > stats.t.ppf(0.975, 2) * np.sqrt(a))
    assert power(parts, effect) == pytest.approx(0.8, abs=1e-6)
    assert found.mean() == pytest.approx(0.8, abs=0.012)


def test_detectable_differences_of_one_seed_and_of_a_bootstrap_are_the_t_test_s():
    one = statistics.crossed(np.random.default_rng(0).normal(size=(1, 40)))
    assert (
        detectable_difference(one) == pytest.approx(detectable(one.se, 39)) == pytest.approx(detectable_at(one.parts))
    )
    resampled = replace(statistics.crossed(np.random.default_rng(0).normal(size=(3, 40))), method="bootstrap", se=0.5)
    assert detectable_difference(resampled) == detectable(0.5, resampled.df)


def test_one_seed_asks_for_more_items_by_the_square_root_law():
    rng = np.random.default_rng(0)
    table = rng.choice([-1.0, 0.0, 1.0], size=(1, 400), p=[0.2, 0.6, 0.2])
    now = statistics.crossed(table)
    [design] = settling_designs(now, 0.05)
    needed = 400 * (detectable(now.se, now.df) / 0.05) ** 2
    assert design.seeds == 1 and needed <= design.items <= 1.11 * needed


def test_where_seeds_differ_more_items_are_no_advice():
    table = np.array([[-0.06], [0.0], [0.06]]) + np.random.default_rng(1).normal(0, 1e-4, (3, 500))

    # the seeds' standard deviation is .06 and all the rest is nothing: the power of the t test over S seeds
    def found(seeds):
        return stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, 0.05 / 0.06 * math.sqrt(seeds))

    needed = next(seeds for seeds in range(4, 99) if found(seeds) >= 0.8)
    assert settling_designs(statistics.crossed(table), 0.05) == [Design(needed, 500)]


def test_hopeless_questions_get_no_advice():
    table = np.array([[-0.4], [0.0], [0.4]]) + np.random.default_rng(1).normal(0, 1e-4, (3, 500))
    assert settling_designs(statistics.crossed(table), 0.05) == []


def test_items_dominate_then_items_settle_it():
    rng = np.random.default_rng(2)
    table = rng.normal(0, 0.5, (1, 200)) + rng.normal(0, 0.01, (4, 200))
    designs = settling_designs(statistics.crossed(table), 0.05)
    assert designs[0].seeds == 4 and designs[0].items > 200
    assert all(design.items > 200 for design in designs)


def test_unchanged_items_settle_it_by_the_rule_of_three():
    unchanged = statistics.widen_if_unchanged(statistics.crossed(np.zeros((2, 20))))
    assert settling_designs(unchanged, 0.05) == [Design(2, 59)]  # .95^59 = .0485, .95^58 = .0510


def test_the_equivalence_test_is_the_verdict_as_a_p_value():
    shown = statistics.crossed(np.array([[0.02, 0.0, -0.02, 0.01, -0.01, 0.03, -0.04, 0.0]]))
    t = (shown.value + 0.05) / shown.se
    assert p_retained(shown, 0.05) == pytest.approx(stats.t.sf(t, 7))
    assert p_retained(shown, 0.05) < 0.05 and str(retained_verdict(shown, shown.p, 0.05)) == "retained"
    assert p_retained(shown, 0.0) == pytest.approx(1 - p_retained(shown, 0.0, higher_is_better=False))
    assert p_equivalent(shown, 0.05) == max(p_retained(shown, 0.05), p_retained(shown, 0.05, higher_is_better=False))


def test_items_without_a_change_show_that_nothing_is_lost_from_59_on():
    for items, word in ((58, "inconclusive"), (59, "retained")):
        unchanged = statistics.widen_if_unchanged(statistics.crossed(np.zeros((1, items))))
        assert p_retained(unchanged, 0.05) == pytest.approx(0.95**items)
        assert retained_verdict(unchanged, 1.0, 0.05).word == word


def test_advice_counts_items_where_clusters_are_the_units():
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(50), 6)
    table = rng.normal(0, 0.4, 50)[clusters][None] + rng.normal(0, 0.1, (1, 300))
    now = statistics.crossed(table, clusters)
    [design] = settling_designs(now, 0.1, n_items=300)
    needed = 300 * (detectable(now.se, now.df) / 0.1) ** 2  # as many items more as clusters more
    assert needed > 300 and needed <= design.items <= 1.11 * needed
    unchanged = statistics.widen_if_unchanged(statistics.crossed(np.zeros((1, 300)), clusters))
    assert settling_designs(unchanged, 0.05, n_items=300) == [Design(1, 351)]  # 58.4 clusters of six


def test_a_margin_of_nothing_is_never_settled():
    unchanged = statistics.widen_if_unchanged(statistics.crossed(np.zeros((1, 20))))
    assert settling_designs(unchanged, 0.0) == []
    assert p_retained(unchanged, 0.0) == 1.0
