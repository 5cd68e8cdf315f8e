"""Win rate at equal length against independent fits, and on data whose truth is known."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm, t

from eval.length_control import influences, length_controlled


def made(n: int, seeds: int = 1, at_equal: float = 0.0, slope: float = 1.5, longer: float = 8.0, seed: int = 0):
    """Outcomes whose log-odds are at_equal + slope * tanh(difference / sd), the new answers longer on average."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(longer, 10, size=(seeds, n)).round()
    wins = rng.random((seeds, n)) < expit(at_equal + slope * np.tanh(differences / differences.std()))
    return wins.astype(float), differences


def test_the_fit_equals_a_direct_minimisation_with_ties_as_halves():
    wins, differences = made(200)
    wins[0, :30] = 0.5
    x, y = np.tanh(differences / differences.std()).ravel(), wins.ravel()

    def loss(b):
        z = b[0] + b[1] * x
        return np.mean(np.logaddexp(0, z) - y * z)

    best = minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-10}).x
    found = length_controlled(wins, differences)
    assert found is not None
    assert found.value == pytest.approx(expit(best[0]), abs=1e-7) and found.slope == pytest.approx(best[1], abs=1e-6)


def test_one_seed_gives_the_sandwich_interval_of_statsmodels():
    wins, differences = made(150, at_equal=0.4)
    design = sm.add_constant(np.tanh(differences / differences.std()).ravel())
    fit = sm.GLM(wins.ravel(), design, family=sm.families.Binomial()).fit(cov_type="HC0", tol=1e-14)
    se = fit.bse[0] * np.sqrt(150 / 149)
    half = t.ppf(0.975, 149) * se
    found = length_controlled(wins, differences)
    assert found is not None
    assert found.ci95 == pytest.approx((expit(fit.params[0] - half), expit(fit.params[0] + half)), abs=1e-9)
    psi = influences(np.asarray(design), wins.ravel(), np.asarray(fit.params))
    assert psi.mean() == pytest.approx(0, abs=1e-9)
    assert np.sqrt((psi**2).sum()) / 150 == pytest.approx(fit.bse[0], abs=1e-9)


def test_wins_that_length_alone_made_vanish_at_equal_length():
    wins, differences = made(4000, seeds=3, at_equal=0.0)
    found = length_controlled(wins, differences)
    assert wins.mean() > 0.6 and found is not None
    assert found.ci95[0] < 0.5 < found.ci95[1] and abs(found.value - 0.5) < 0.03


def test_without_any_difference_in_length_it_is_the_plain_rate():
    wins, _ = made(300)
    found = length_controlled(wins, np.zeros_like(wins))
    assert found is not None and found.value == pytest.approx(wins.mean(), abs=1e-9) and found.slope == 0


def test_no_rate_where_length_alone_tells_who_wins_or_one_side_always_does():
    _, differences = made(100)
    assert length_controlled((differences > 0).astype(float), differences) is None
    assert length_controlled(np.ones_like(differences), differences) is None
    assert length_controlled(np.zeros_like(differences), np.zeros_like(differences)) is None


def test_the_interval_covers_the_truth_as_often_as_it_says():
    truth, covered, runs = 0.3, 0, 300
    for seed in range(runs):
        wins, differences = made(120, at_equal=truth, seed=seed)
        found = length_controlled(wins, differences)
        assert found is not None
        covered += found.ci95[0] <= expit(truth) <= found.ci95[1]
    slack = norm.ppf(0.9995) * np.sqrt(0.95 * 0.05 / runs)
    assert abs(covered / runs - 0.95) < slack
