"""What must hold for every table of differences."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eval import statistics
from eval.bootstrap import resampled_means, seed_draws
from eval.verdict import p_equivalent, p_retained, retained_verdict, target_verdict

sizes = st.tuples(st.integers(1, 4), st.integers(2, 12))
tables = arrays(float, sizes, elements=st.integers(-3, 3).map(float))
binary = arrays(float, sizes, elements=st.sampled_from([-1.0, 0.0, 1.0]))
fast = settings(max_examples=60, deadline=None)


def close(pair):
    return pytest.approx(pair, rel=1e-6, abs=1e-6)


def labels_for(table: np.ndarray, groups: int) -> np.ndarray:
    return np.arange(table.shape[1]) % groups


@fast
@given(table=tables, groups=st.integers(2, 12))
def test_intervals_hold_the_estimate_and_the_wider_holds_the_narrower(table, groups):
    estimate = statistics.crossed(table, labels_for(table, groups))
    (low95, high95), (low90, high90) = estimate.ci95, estimate.ci90
    assert low95 <= low90 <= estimate.value <= high90 <= high95
    assert estimate.value == pytest.approx(table.mean())
    assert 0 <= estimate.p <= 1 and estimate.df > 0


@fast
@given(table=tables, seed=st.integers(0, 99), groups=st.integers(2, 12))
def test_order_of_items_and_seeds_does_not_matter(table, seed, groups):
    rng = np.random.default_rng(seed)
    order = rng.permutation(table.shape[1])
    labels = labels_for(table, groups)
    one = statistics.crossed(table, labels)
    other = statistics.crossed(rng.permutation(table, axis=0)[:, order], labels[order])
    assert other.ci95 == close(one.ci95) and other.p == close(one.p)


@fast
@given(table=tables, bound=st.sampled_from([-2.0, -0.5, 0.05, 1.0]))
def test_exchanging_the_sides_turns_everything_round(table, bound):
    one, other = statistics.crossed(table), statistics.crossed(-table)
    assert other.ci95 == close((-one.ci95[1], -one.ci95[0]))
    assert other.p == close(one.p)
    assert other.p_above(bound) == close(one.p_below(-bound))
    assert p_equivalent(other, abs(bound)) == close(p_equivalent(one, abs(bound)))


@fast
@given(table=tables, scale=st.sampled_from([0.01, 3.0, 100.0]))
def test_points_and_shares_give_the_same_answer(table, scale):
    one, other = statistics.crossed(table), statistics.crossed(table * scale)
    assert other.ci95 == pytest.approx(tuple(bound * scale for bound in one.ci95), rel=1e-6, abs=1e-6 * scale)
    assert other.p == close(one.p)


@fast
@given(table=tables)
def test_a_group_of_one_task_is_that_task(table):
    one, other = statistics.crossed(table), statistics.group([table])
    assert other.value == pytest.approx(one.value)
    assert other.ci95 == close(one.ci95)


@fast
@given(row=arrays(float, st.integers(2, 12), elements=st.integers(-3, 3).map(float)), seeds=st.integers(2, 5))
def test_seeds_that_agree_on_every_item_are_worth_one(row, seeds):
    one, many = statistics.crossed(row[None]), statistics.crossed(np.tile(row, (seeds, 1)))
    assert many.ci95 == close(one.ci95) and many.df == close(one.df) and many.p == close(one.p)


@fast
@given(table=tables, groups=st.integers(2, 12), copies=st.integers(2, 4))
def test_an_item_repeated_within_its_cluster_is_no_new_evidence(table, groups, copies):
    labels = labels_for(table, groups)
    assume(len(set(labels)) < table.shape[1])
    one = statistics.crossed(table, labels)
    other = statistics.crossed(np.tile(table, copies), np.tile(labels, copies))
    assert other.ci95 == close(one.ci95) and other.p == close(one.p)


@fast
@given(table=tables, groups=st.integers(2, 12))
def test_twice_the_clusters_is_new_evidence(table, groups):
    """One seed: the error of the mean falls by (G - 1) / (2 G - 1) in the square, as with a sum of squares twice as large."""
    labels = labels_for(table[:1], groups)
    count = len(set(labels))
    one = statistics.crossed(table[:1], labels)
    other = statistics.crossed(np.tile(table[:1], 2), np.concatenate([labels, labels + count]))
    assert other.value == pytest.approx(one.value)
    assert other.se**2 == close(one.se**2 * (count - 1) / (2 * count - 1))


@fast
@given(table=tables)
def test_one_sided_tests_agree_with_the_two_sided_one_and_with_the_interval(table):
    estimate = statistics.crossed(table)
    assume(estimate.se > 1e-9)
    assert 2 * min(estimate.p_above(0.0), estimate.p_below(0.0)) == close(estimate.p)
    assert estimate.p_above(estimate.ci90[0]) == pytest.approx(0.05)
    assert estimate.p_below(estimate.ci90[1]) == pytest.approx(0.05)


@fast
@given(table=binary, margin=st.sampled_from([0.01, 0.05, 0.2, 0.6, 1.5]))
def test_verdicts_and_equivalence_tests_say_the_same(table, margin):
    estimate = statistics.widen_if_unchanged(statistics.crossed(table))
    for higher_is_better in (True, False):
        word = retained_verdict(estimate, estimate.p, margin, higher_is_better).word
        assert (word == "retained") == (p_retained(estimate, margin, higher_is_better) < 0.05)
    assert (target_verdict(estimate, 1.0, margin).word == "unchanged") == (p_equivalent(estimate, margin) < 0.05)


@fast
@given(table=tables, seed=st.integers(0, 99))
def test_bootstrap_stays_within_the_scores_and_moves_with_them(table, seed):
    scores = table[:, None]

    def draws(scores):
        rng = np.random.default_rng(seed)
        return resampled_means(scores, seed_draws(len(table), 50, rng), rng)

    assert table.min() - 1e-9 <= draws(scores).min() and draws(scores).max() <= table.max() + 1e-9
    assert draws(2 * scores - 5) == pytest.approx(2 * draws(scores) - 5)
