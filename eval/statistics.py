"""Intervals and tests for paired differences between two models.

The table `differences[S, n]` holds new minus reference for every seed `S` and item `n`; the same items are asked of
every seed, so seeds and items are **crossed** random effects. scipy and statsmodels give the distributions, the exact
tests and the corrections for many tests; only what they lack is written here: the crossed two-way interval and the
two-way bootstrap of a ratio.

Signs: an `Estimate` is always of the raw difference. Verdicts are taken on the *gain*, which is the difference where
higher is better and minus the difference where lower is better (`eval/verdict.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

Method = Literal["paired", "cluster", "crossed", "bootstrap"]
Interval = tuple[float, float]


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


@dataclass(frozen=True)
class Estimate:
    """A difference with its standard error, its intervals and the two-sided p of "no difference"."""

    value: float
    se: float
    df: float
    ci95: Interval
    ci90: Interval
    p: float
    method: Method
    parts: Parts


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


def cluster_table(table: np.ndarray, clusters: Sequence[str] | np.ndarray | None) -> np.ndarray:
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


def crossed(differences: np.ndarray, clusters: Sequence[str] | np.ndarray | None = None) -> Estimate:
    """Mean of `differences[S, n]` with seeds and items as crossed random effects; t interval.

    V = max(MS_s + MS_i - MS_e, MS_s, MS_i), Var = V / (S n), df by Satterthwaite with V in the numerator. One seed:
    the paired interval over items, or over clusters.
    """
    table = cluster_table(np.atleast_2d(np.asarray(differences, float)), clusters)
    squares = mean_squares(table)
    parts = Parts(squares.seeds, (squares,))
    clustered = table.shape[1] != np.atleast_2d(differences).shape[1]
    method: Method = "crossed" if table.shape[0] > 1 else "cluster" if clustered else "paired"
    return _t_estimate(float(table.mean()), parts, method)


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
    return _t_estimate(float(seed_means.mean()), parts, method)


def _t_estimate(mean: float, parts: Parts, method: Method) -> Estimate:
    se, df = float(np.sqrt(parts.variance())), parts.degrees()
    if se < 1e-12 or df <= 0:
        level = 1.0 if abs(mean) < 1e-12 else 0.0
        return Estimate(mean, 0.0, max(df, 1.0), (mean, mean), (mean, mean), level, method, parts)
    half95, half90 = (float(stdtrit(df, 1 - tail)) * se for tail in (0.025, 0.05))
    p = float(2 * stdtr(df, -abs(mean) / se))
    return Estimate(mean, se, df, (mean - half95, mean + half95), (mean - half90, mean + half90), p, method, parts)


def no_change_bound(n_items: int, level: float) -> float:
    """The largest share of changed items that `n_items` without a change still allow (the exact form of the "rule of
    three")."""
    return 1 - ((1 - level) / 2) ** (1 / n_items)


def widen_if_unchanged(estimate: Estimate, n_items: int) -> Estimate:
    """For 0/1 scores: when no item changed, "no change" is known only as well as `n_items` can tell, not exactly."""
    if estimate.se > 0 or abs(estimate.value) > 1e-12:
        return estimate
    bound95, bound90 = no_change_bound(n_items, 0.95), no_change_bound(n_items, 0.90)
    return replace(estimate, ci95=(-bound95, bound95), ci90=(-bound90, bound90))


def ratio_change(
    reference: np.ndarray,
    new: np.ndarray,
    weights: np.ndarray,
    clusters: Sequence[str] | np.ndarray | None = None,
    *,
    replicates: int = 4000,
    seed: int = 0,
) -> Estimate:
    """Change of a ratio of sums, `sum(new) / sum(weights) - sum(reference) / sum(weights)`, by a paired two-way
    bootstrap.

    reference, new: `[S, n]` numerators; weights: `[n]`. Documents (or clusters) and seeds are drawn with replacement,
    each independently, the same draw for both sides. At 3 seeds such an interval is too narrow, at 10 too wide: say
    so beside it. Variance parts come from the linearised ratio, for planning only.
    """
    change = np.atleast_2d(np.asarray(new, float) - np.asarray(reference, float))
    weights = np.asarray(weights, float)
    value = float(change.mean(0).sum() / weights.sum())
    linear = cluster_table(value + (change - value * weights) / weights.mean(), clusters)
    squares = mean_squares(linear)
    parts = Parts(squares.seeds, (squares,))
    draws = _ratio_draws(*_sum_clusters(change, weights, clusters), replicates, np.random.default_rng(seed))
    low95, low90, high90, high95 = (float(q) for q in np.quantile(draws, [0.025, 0.05, 0.95, 0.975]))
    below, above = (int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (min(below, above) + 1) / (replicates + 1))
    se = float(draws.std(ddof=1))
    return Estimate(value, se, parts.degrees(), (low95, high95), (low90, high90), p, "bootstrap", parts)


def _sum_clusters(change: np.ndarray, weights: np.ndarray, clusters) -> tuple[np.ndarray, np.ndarray]:
    if clusters is None:
        return change, weights
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.stack([np.bincount(index, weights=row, minlength=len(labels)) for row in change])
    return sums, np.bincount(index, weights=weights, minlength=len(labels))


def _ratio_draws(change: np.ndarray, weights: np.ndarray, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """`replicates` bootstrap values of sum(change) / (S sum(weights)); in blocks, so that memory stays small."""
    n_seeds, n_items = change.shape
    block = max(1, 4_000_000 // n_items)
    draws = []
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        items = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=size).astype(float)
        seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=size) / n_seeds
        draws.append(((items @ change.T) * seeds).sum(1) / (items @ weights))
    return np.concatenate(draws)


@dataclass(frozen=True)
class Transitions:
    """How often an item was right (1) or wrong (0) before and after, over all seeds and items."""

    n11: int
    n10: int
    n01: int
    n00: int

    @property
    def n(self) -> int:
        return self.n11 + self.n10 + self.n01 + self.n00

    @property
    def forgetting(self) -> float:
        """F: the share that was right and became wrong (arXiv 2510.17776)."""
        return self.n10 / self.n

    @property
    def backward_transfer(self) -> float:
        """B: the share that was wrong and became right."""
        return self.n01 / self.n

    def guessing(self, chance: float | None) -> float | None:
        """What independent guesses alone would add to F and to B: (1 - a0)(1 - a1) / (k - 1) with k = 1 / chance
        choices.

        Subtracted unclipped; it over-corrects for near-identical models. None where chance is unknown or 0.
        """
        if not chance or chance >= 1:
            return None
        right_before, right_after = (self.n11 + self.n10) / self.n, (self.n11 + self.n01) / self.n
        return (1 - right_before) * (1 - right_after) / (1 / chance - 1)


def transitions(reference: np.ndarray, new: np.ndarray) -> Transitions:
    """Counts over `[S, n]` tables of 0/1 scores."""
    before, after = np.asarray(reference) > 0.5, np.asarray(new) > 0.5
    pairs = ((before & after), (before & ~after), (~before & after), (~before & ~after))
    return Transitions(*(int(pair.sum()) for pair in pairs))


def churn_floor(scores: np.ndarray) -> float | None:
    """F (and B: they are equal here) between two training seeds of one arm, `scores[S, n]` of 0/1: mean disagreement
    / 2."""
    n_seeds = len(scores)
    if n_seeds < 2:
        return None
    pairs = [np.mean(scores[i] != scores[j]) / 2 for i in range(n_seeds) for j in range(i)]
    return float(np.mean(pairs))


def mcnemar(counts: Transitions) -> float:
    """Exact two-sided McNemar test of 0/1 scores on the same items."""
    from scipy import stats

    changed = counts.n10 + counts.n01
    return 1.0 if changed == 0 else float(stats.binomtest(counts.n10, changed, 0.5).pvalue)


def adjust(p_values: Sequence[float], method: Literal["holm", "fdr_bh"]) -> list[float]:
    """Holm for declared tasks, Benjamini-Hochberg for exploratory ones."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(list(p_values), method=method)[1], float).tolist() if len(p_values) else []
