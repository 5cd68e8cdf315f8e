"""Intervals and tests for paired differences between two models.

The table `differences[S, n]` holds new minus reference for every seed `S` and item `n`; the same items are asked of
every seed, so seeds and items are **crossed** random effects. scipy gives the distributions
and the exact tests; only what it lacks is written here: the crossed two-way interval, and corrections for many tests. Ratios and
curves are resampled (`eval/bootstrap.py`); 0/1 scores before and after are counted in `eval/transitions.py`.

Signs: an `Estimate` is always of the raw difference. Verdicts are taken on the *gain*, which is the difference where
higher is better and minus the difference where lower is better (`eval/verdict.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

Method = Literal["paired", "cluster", "crossed", "bootstrap"]
Interval = tuple[float, float]
Clusters = Sequence[str] | np.ndarray


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of one two-way table, each divided by `S n`: its share in the variance of the grand mean.

    seeds: MS_s / (S n), 0 for one seed. items: MS_i / (S n). error: MS_e / (S n).
    """

    seeds: float
    items: float
    error: float
    n_seeds: int
    n_items: int


@dataclass(frozen=True)
class Parts:
    """What the variance of a mean over items and seeds is made of; a group of tasks has one `tasks` entry per task.

    seeds is the seeds' share: for one task its MS_s / (S n), for a group the variance of the seeds' means over tasks,
    / S.
    """

    seeds: float
    tasks: tuple[MeanSquares, ...]

    @property
    def n_seeds(self) -> int:
        return self.tasks[0].n_seeds

    @property
    def of_one(self) -> bool:
        """Whether some task has one item, or one cluster of items."""
        return any(task.n_items == 1 for task in self.tasks)

    @property
    def items(self) -> float:
        return sum(task.items for task in self.tasks) / len(self.tasks) ** 2

    @property
    def error(self) -> float:
        return sum(task.error for task in self.tasks) / len(self.tasks) ** 2

    def variance(self) -> float:
        """Seeds + items - error, and never below either of the two; where both are 0 (changes that cancel exactly in
        every row and column of a small table) the error, so that noise is not taken for certainty."""
        largest = max(self.seeds + self.items - self.error, self.seeds, self.items)
        return largest if largest > 1e-12 * self.error else self.error

    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom, with the variance above in the numerator (the raw sum would let them
        collapse)."""
        weight = len(self.tasks) ** 4
        below = sum(task.items**2 / (task.n_items - 1) for task in self.tasks if task.n_items > 1) / weight
        if self.n_seeds > 1:
            below += self.seeds**2 / (self.n_seeds - 1)
            cells = [(task, (task.n_items - 1) * (self.n_seeds - 1)) for task in self.tasks]
            below += sum(task.error**2 / cell for task, cell in cells if cell) / weight
        return self.variance() ** 2 / below if below > 0 else float(sum(task.n_items - 1 for task in self.tasks))

    def rulers(self) -> list[tuple[float, float]]:
        """Standard error and degrees of freedom of the mean and, with several seeds, of the seeds' scores alone.

        The wider of the two counts. Satterthwaite's degrees are too many where few seeds happen to lie close together,
        and items can only add to what the seeds alone leave open: without this floor 95 % intervals cover 92 % at 3
        seeds that differ much, and 88 % at 2.
        """
        whole = (math.sqrt(self.variance()), self.degrees())
        return [whole, (math.sqrt(self.seeds), self.n_seeds - 1.0)] if self.seeds > 0 else [whole]


@dataclass(frozen=True)
class Estimate:
    """A difference with its standard error, its intervals and the two-sided p of "no difference".

    unchanged: for 0/1 scores of which none changed, how many items bear witness to that; the intervals are then exact
    bounds (`widen_if_unchanged`). draws: for a bootstrap, its replicates of the difference.
    """

    value: float
    se: float
    df: float
    ci95: Interval
    ci90: Interval
    p: float
    method: Method
    parts: Parts
    unchanged: int = 0
    draws: np.ndarray | None = field(default=None, repr=False, compare=False)

    def p_above(self, bound: float) -> float:
        """One-sided p of "the true difference is `bound` or less": below .05 where the lower end of `ci90` is above
        `bound`."""
        if self.draws is not None:
            return (int((self.draws <= bound).sum()) + 1) / (len(self.draws) + 1)
        if self.unchanged:
            return (1 - min(-bound, 1.0)) ** self.unchanged if bound < 0 else 1.0
        if math.isinf(self.se):
            return 1.0
        if self.se == 0:
            return 1.0 if self.value <= bound else 0.0
        rulers = self.parts.rulers() if self.method == "crossed" else [(self.se, self.df)]
        return max(float(stdtr(df, (bound - self.value) / se)) for se, df in rulers)

    def p_below(self, bound: float) -> float:
        """One-sided p of "the true difference is `bound` or more"."""
        turned = None if self.draws is None else -self.draws
        return replace(self, value=-self.value, draws=turned).p_above(-bound)


def mean_squares(table: np.ndarray) -> MeanSquares:
    """Two-way analysis of variance without replication of `table[S, n]`."""
    n_seeds, n_items = table.shape
    mean, rows, columns = table.mean(), table.mean(1), table.mean(0)
    cells = n_seeds * n_items
    items = n_seeds * ((columns - mean) ** 2).sum() / max(n_items - 1, 1) / cells
    if n_seeds == 1:
        return MeanSquares(0.0, float(items), 0.0, 1, n_items)
    seeds = n_items * ((rows - mean) ** 2).sum() / (n_seeds - 1) / cells
    rest = table - rows[:, None] - columns[None, :] + mean
    error = (rest**2).sum() / max((n_seeds - 1) * (n_items - 1), 1) / cells
    return MeanSquares(float(seeds), float(items), float(error), n_seeds, n_items)


def cluster_table(table: np.ndarray, clusters: Clusters | None) -> np.ndarray:
    """`table[S, n]` with items gathered into clusters, `[S, G]`, mean unchanged.

    Cell = mean + (G / n) * sum over the cluster of (difference - mean). One seed then gives the usual cluster-robust
    error with the factor G / (G - 1); clusters of one item each give the table itself.
    """
    if clusters is None:
        return table
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    if len(labels) == table.shape[1]:
        return table
    mean = table.mean()
    sums = np.stack([np.bincount(index, weights=row - mean, minlength=len(labels)) for row in table])
    return mean + sums * len(labels) / table.shape[1]


def crossed(differences: np.ndarray, clusters: Clusters | None = None) -> Estimate:
    """Mean of `differences[S, n]` with seeds and items as crossed random effects; t interval.

    V = max(MS_s + MS_i - MS_e, MS_s, MS_i), Var = V / (S n), df by Satterthwaite with V in the numerator; never
    narrower than the t interval over the seeds' means alone (`Parts.rulers`). One seed: the paired interval over items,
    or over clusters.
    """
    table = cluster_table(np.atleast_2d(np.asarray(differences, float)), clusters)
    squares = mean_squares(table)
    parts = Parts(squares.seeds, (squares,))
    clustered = table.shape[1] != np.atleast_2d(differences).shape[1]
    method: Method = "crossed" if table.shape[0] > 1 else "cluster" if clustered else "paired"
    return t_estimate(float(table.mean()), parts, method)


def group(tables: Sequence[np.ndarray], clusters: Sequence[np.ndarray | None] | None = None) -> Estimate:
    """Unweighted mean over tasks of the mean differences, tasks `[S, n_t]` with the same seeds in the same order.

    With G_s the seed's mean over tasks: A = var(G) / S, B = sum (MS_i - MS_e) / (S n_t T^2), C = sum MS_i / (S n_t
    T^2), Var = max(A + B, A, C). The degrees of freedom extend those of one task, to which everything here reduces
    for T = 1.
    """
    gathered = [
        cluster_table(np.asarray(table, float), clusters[i] if clusters else None) for i, table in enumerate(tables)
    ]
    seed_means = np.mean([table.mean(1) for table in gathered], axis=0)
    n_seeds = len(seed_means)
    seeds = float(seed_means.var(ddof=1) / n_seeds) if n_seeds > 1 else 0.0
    parts = Parts(seeds, tuple(mean_squares(table) for table in gathered))
    clustered = any(table.shape[1] != np.shape(raw)[1] for table, raw in zip(gathered, tables, strict=True))
    method: Method = "crossed" if n_seeds > 1 else "cluster" if clustered else "paired"
    return t_estimate(float(seed_means.mean()), parts, method)


def unbounded(mean: float, parts: Parts, method: Method) -> Estimate:
    """A number of which nothing is known but itself."""
    everything = (-math.inf, math.inf)
    return Estimate(mean, math.inf, 1.0, everything, everything, 1.0, method, parts)


def t_estimate(mean: float, parts: Parts, method: Method) -> Estimate:
    """A number with the intervals and the p that its variance parts give it; without bounds where there is one item, or one
    cluster of items: nothing tells how much another would differ."""
    if parts.of_one:
        return unbounded(mean, parts, method)
    se, df = math.sqrt(parts.variance()), parts.degrees()
    if se < 1e-12:
        level = 1.0 if abs(mean) < 1e-12 else 0.0
        return Estimate(mean, 0.0, df, (mean, mean), (mean, mean), level, method, parts)
    rulers = parts.rulers()
    half95, half90 = (max(float(stdtrit(f, 1 - tail)) * e for e, f in rulers) for tail in (0.025, 0.05))
    p = max(float(2 * stdtr(f, -abs(mean) / e)) for e, f in rulers)
    return Estimate(mean, se, df, (mean - half95, mean + half95), (mean - half90, mean + half90), p, method, parts)


def no_change_bound(n_items: int, level: float) -> float:
    """The largest share of changed items that `n_items` without a change still allow (the exact form of the "rule of
    three")."""
    return 1 - ((1 - level) / 2) ** (1 / n_items)


def widen_if_unchanged(estimate: Estimate) -> Estimate:
    """For 0/1 scores: when no item changed, "no change" is known only as well as so many items can tell, not exactly.

    Counted are the independent items, or clusters. A mean over tasks counts the smallest task's for each: with tasks of
    one size that is all of them, and never too many, because the changes that were missed may all sit there.
    """
    if estimate.parts.variance() > 1e-24 or abs(estimate.value) > 1e-12:
        return estimate
    tasks = estimate.parts.tasks
    n_items = len(tasks) * min(task.n_items for task in tasks)
    bound95, bound90 = no_change_bound(n_items, 0.95), no_change_bound(n_items, 0.90)
    return replace(estimate, se=0.0, ci95=(-bound95, bound95), ci90=(-bound90, bound90), unchanged=n_items)


def adjust(p_values: Sequence[float], method: Literal["holm", "fdr_bh"]) -> list[float]:
    """Holm for declared tasks, Benjamini-Hochberg for exploratory ones. Not through statsmodels, which collects Python's garbage at
    each call: a tenth of a second, or half of one beside vLLM."""
    values = np.asarray(p_values, float)
    order, count = np.argsort(values), len(values)
    if method == "holm":
        sorted_up = np.maximum.accumulate(values[order] * np.arange(count, 0, -1))
    else:
        sorted_up = np.minimum.accumulate((values[order] * count / np.arange(1, count + 1))[::-1])[::-1]
    adjusted = np.empty(count)
    adjusted[order] = sorted_up.clip(max=1)
    return adjusted.tolist()
