"""The same numbers as scipy, statsmodels and published worked examples, to 1e-9."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.contingency_tables import mcnemar as sm_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from eval import statistics
from eval.transitions import Transitions, mcnemar, transitions
from eval.verdict import detectable, p_equivalent, p_retained

BEFORE = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1], float)
AFTER = np.array([1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1], float)
GOLD_BEFORE = np.array([0.31, 0.55, 0.48, 0.92, 0.13, 0.66, 0.71, 0.28, 0.44, 0.59])
GOLD_AFTER = np.array([0.35, 0.49, 0.50, 0.95, 0.10, 0.70, 0.69, 0.33, 0.41, 0.62])


def same(value: float):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("counts", [(794, 150, 86, 570), (5, 0, 6, 1), (3, 7, 7, 2), (0, 1, 0, 0), (40, 23, 9, 17)])
def test_mcnemar_is_that_of_statsmodels(counts):
    n11, n10, n01, n00 = counts
    expected = sm_mcnemar([[n11, n10], [n01, n00]], exact=True).pvalue
    assert mcnemar(Transitions(n11, n10, n01, n00)) == same(min(1.0, expected))


def test_mcnemar_of_the_approval_ratings():
    """Agresti, Categorical Data Analysis, table 10.1: 1,600 voters asked twice; the exact p as R's exact2x2 prints it."""
    assert mcnemar(Transitions(n11=794, n10=150, n01=86, n00=570)) == pytest.approx(3.716e-5, rel=2e-4)


@pytest.mark.parametrize(("before", "after"), [(BEFORE, AFTER), (GOLD_BEFORE, GOLD_AFTER)])
def test_one_checkpoint_is_scipys_paired_t_test(before, after):
    estimate, expected = statistics.crossed((after - before)[None]), stats.ttest_rel(after, before)
    assert estimate.p == same(expected.pvalue)
    for ours, level in ((estimate.ci95, 0.95), (estimate.ci90, 0.90)):
        interval = expected.confidence_interval(level)
        assert ours == (same(interval.low), same(interval.high))


@pytest.mark.parametrize("margin", [0.01, 0.05, 0.3])
@pytest.mark.parametrize(("before", "after"), [(BEFORE, AFTER), (GOLD_BEFORE, GOLD_AFTER)])
def test_equivalence_is_statsmodels_tost(before, after, margin):
    estimate = statistics.crossed((after - before)[None])
    both, (_, above, _), (_, below, _) = ttost_paired(after, before, -margin, margin)
    assert p_equivalent(estimate, margin) == same(both)
    assert p_retained(estimate, margin) == same(above)
    assert p_retained(estimate, margin, higher_is_better=False) == same(below)


def test_clustered_error_is_statsmodels_cluster_robust_ols():
    changes = GOLD_AFTER - GOLD_BEFORE
    clusters = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    robust = sm.OLS(changes, np.ones(10)).fit().get_robustcov_results("cluster", groups=clusters, use_t=True)
    estimate = statistics.crossed(changes[None], clusters.astype(str))
    assert estimate.se == same(robust.bse[0]) and estimate.p == same(robust.pvalues[0])
    assert estimate.ci95 == tuple(same(bound) for bound in robust.conf_int()[0])


def test_two_way_table_of_shrout_and_fleiss():
    """Psychological Bulletin 86 (1979), table 2: four judges rate six targets; BMS 11.24, JMS 32.49, EMS 1.02 in table 3."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    squares = statistics.mean_squares(np.array(ratings, float).T)
    found = np.array([squares.items, squares.seeds, squares.error]) * 24
    assert found == pytest.approx([11.24, 32.49, 1.02], abs=0.005)


def test_mean_squares_are_those_of_statsmodels_analysis_of_variance():
    table = np.array([[0, 1, 0, -1, 0], [1, 1, 0, 0, -1], [0, 0, 1, -1, -1]], float)
    seeds, items = np.indices(table.shape)
    data = pd.DataFrame({"change": table.ravel(), "training": seeds.ravel(), "item": items.ravel()})
    expected = sm.stats.anova_lm(ols("change ~ C(training) + C(item)", data).fit())["mean_sq"]
    squares = statistics.mean_squares(table)
    assert squares.seeds * 15 == same(expected["C(training)"])
    assert squares.items * 15 == same(expected["C(item)"])
    assert squares.error * 15 == same(expected["Residual"])


def test_holm_on_a_published_example():
    """The four hypotheses of the article on Holm's method in Wikipedia: the first and the last are rejected at .05."""
    assert statistics.adjust([0.01, 0.04, 0.03, 0.005], "holm") == [same(p) for p in (0.03, 0.06, 0.06, 0.02)]


def test_holm_is_the_closure_of_bonferroni():
    """Its definition as a closed test: the largest Bonferroni p of all the sets of hypotheses with this one in it."""
    p_values = [0.011, 0.3, 0.02, 0.004, 0.04]
    expected = []
    for index in range(5):
        sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size) if index in s]
        expected.append(min(1.0, max(len(s) * min(p_values[i] for i in s) for s in sets)))
    assert statistics.adjust(p_values, "holm") == [same(p) for p in expected]


BENJAMINI_HOCHBERG = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
                      0.6528, 0.7590, 1.0]  # fmt: skip


@given(st.lists(st.floats(0, 1), max_size=30), st.sampled_from(["holm", "fdr_bh"]))
def test_corrections_are_those_of_statsmodels(p_values, method):
    expected = multipletests(p_values, method=method)[1] if p_values else []
    assert statistics.adjust(p_values, method) == [same(p) for p in expected]


def test_benjamini_hochberg_on_their_own_example():
    """JRSS B 57 (1995), section 3.2: fifteen comparisons of two treatments, four are discoveries at .05, Holm finds three."""
    adjusted = statistics.adjust(BENJAMINI_HOCHBERG, "fdr_bh")
    assert [p < 0.05 for p in adjusted] == [True] * 4 + [False] * 11
    assert adjusted[3] == same(0.0095 * 15 / 4)
    assert adjusted == [same(p) for p in stats.false_discovery_control(BENJAMINI_HOCHBERG)]
    assert sum(p < 0.05 for p in statistics.adjust(BENJAMINI_HOCHBERG, "holm")) == 3


@pytest.mark.parametrize("items", [1, 20, 1000])
def test_no_change_is_bounded_as_clopper_and_pearson_do(items):
    widened = statistics.widen_if_unchanged(statistics.crossed(np.zeros((1, items))))
    _, upper = proportion_confint(0, items, alpha=0.05, method="beta")
    assert widened.ci95 == (same(-upper), same(upper))
    assert widened.p_above(-0.02) == same(stats.binomtest(0, items, 0.02, alternative="less").pvalue)


@pytest.mark.parametrize("items", [5, 30, 400])
def test_detectable_effect_has_the_power_that_statsmodels_computes(items):
    effect = detectable(se=1 / np.sqrt(items), df=items - 1)
    assert TTestPower().power(effect, items, 0.025, alternative="larger") == pytest.approx(0.8)


def test_counts_add_up_to_the_paired_difference():
    counts = transitions(BEFORE, AFTER)
    assert counts.backward_transfer - counts.forgetting == same((AFTER - BEFORE).mean())
