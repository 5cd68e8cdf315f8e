"""Win rate at equal length: judges and reward models like long answers, and a policy finds that out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from eval import statistics
from eval.statistics import Interval

_SEPARATED = 15.0  # a coefficient of the logistic fit beyond which it is on its way to infinity


@dataclass(frozen=True)
class LengthControlled:
    """value: the win rate at equal length. slope: log-odds of a win for each unit of tanh(difference / sd)."""

    value: float
    ci95: Interval
    slope: float


def length_controlled(wins: np.ndarray, differences: np.ndarray) -> LengthControlled | None:
    """Logistic regression win ~ 1 + tanh(difference / sd), read at no difference (as AlpacaEval 2 does, arXiv 2404.04475).

    wins [S, n]: 1, 0 or 0.5 for a tie, which counts as half a win and half a loss. differences [S, n]: length of the new answer
    minus that of the reference's. The interval is the crossed one over seeds and prompts (eval/statistics.py) of the linearised
    estimate, on the log-odds scale. None where the fit does not exist: one side always wins, or length tells who does.
    """
    import statsmodels.api as sm

    sd = float(differences.std())
    columns = [np.ones(wins.size)] + ([np.tanh(differences.ravel() / sd)] if sd > 0 else [])
    design, outcome = np.column_stack(columns), wins.ravel()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # about separation, which the next lines find
        fit = sm.GLM(outcome, design, family=sm.families.Binomial()).fit()
    coefficients = np.asarray(fit.params)
    if not np.isfinite(coefficients).all() or np.abs(coefficients).max() > _SEPARATED:
        return None
    table = coefficients[0] + influences(design, outcome, coefficients).reshape(wins.shape)
    low, high = statistics.crossed(table).ci95
    slope = float(coefficients[1]) if sd > 0 else 0.0
    return LengthControlled(float(expit(coefficients[0])), (float(expit(low)), float(expit(high))), slope)


def influences(design: np.ndarray, outcome: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """[N]: what each observation adds to the fitted intercept, (A^-1 x)_0 (y - mu) with A = X' diag(mu (1 - mu)) X / N. Their
    mean is 0, and the mean of their squares / N is the sandwich variance of the intercept."""
    expected = expit(design @ coefficients)
    curvature = (design * (expected * (1 - expected))[:, None]).T @ design / len(outcome)
    return np.linalg.solve(curvature, design.T)[0] * (outcome - expected)
