"""Intervals that compete on the same data, ours first, and the p values of our tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import special

from benchmarks.statistics.simulate import Answers
from eval import statistics
from eval.bootstrap import resampled_means, seed_draws
from eval.statistics import Estimate, Interval
from eval.transitions import mcnemar, transitions

REPLICATES = 1000

Method = Callable[[Sequence[Answers], np.random.Generator], Interval]


def estimate_of(tasks: Sequence[Answers]) -> Estimate:
    """As `eval/compare.py` estimates a task, or a group of tasks."""
    if len(tasks) == 1:
        return statistics.widen_if_unchanged(statistics.crossed(tasks[0].differences, tasks[0].clusters))
    estimate = statistics.group([task.differences for task in tasks], [task.clusters for task in tasks])
    return statistics.widen_if_unchanged(estimate)


def p_of(task: Answers) -> float:
    """As `eval/compare.py` tests a task: exactly for a single checkpoint, else by the interval's own statistic."""
    estimate = estimate_of([task])
    return mcnemar(transitions(task.reference, task.new)) if estimate.method == "paired" else estimate.p


def crossed(tasks: Sequence[Answers], rng: np.random.Generator) -> Interval:
    """Ours. For one seed: the paired interval, or the clustered one."""
    return estimate_of(tasks).ci95


def two_way_bootstrap(tasks: Sequence[Answers], rng: np.random.Generator) -> Interval:
    """Percentiles of the suite's own bootstrap over seeds and items."""
    seeds = seed_draws(len(tasks[0].new), REPLICATES, rng)
    draws = [resampled_means(task.differences[:, None], seeds, rng, task.clusters)[:, 0] for task in tasks]
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return float(low), float(high)


def items_only(tasks: Sequence[Answers], rng: np.random.Generator) -> Interval:
    """The usual paired interval: seeds are averaged away, clusters overlooked."""
    means = [task.differences.mean(0) for task in tasks]
    variance = sum(float(mean.var(ddof=1)) / len(mean) for mean in means) / len(means) ** 2
    freedom = sum(len(mean) - 1 for mean in means)
    return _t_interval(float(np.mean([mean.mean() for mean in means])), variance, freedom)


def seeds_only(tasks: Sequence[Answers], rng: np.random.Generator) -> Interval:
    """t over the seeds' scores, as most papers print it: the items count as all there are."""
    scores = np.mean([task.differences.mean(1) for task in tasks], axis=0)
    return _t_interval(float(scores.mean()), float(scores.var(ddof=1)) / len(scores), len(scores) - 1)


def _t_interval(mean: float, variance: float, freedom: int) -> Interval:
    half = float(special.stdtrit(freedom, 0.975)) * variance**0.5
    return mean - half, mean + half


OWN: Mapping[str, Method] = {
    "ours": crossed,
    "two-way bootstrap": two_way_bootstrap,
    "items only": items_only,
    "seeds only": seeds_only,
}
