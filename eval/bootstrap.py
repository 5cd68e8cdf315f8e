"""Two-way bootstrap, for what has no formula: ratios, curves, quantiles.

A replicate draws seeds with replacement and items (or clusters of items) with replacement, independently, and gives
both arms, and every point of a curve, the same draw, so that pairs stay pairs. At 3 seeds its intervals are too narrow,
at 10 too wide (`benchmarks/statistics`): a mean has the crossed interval of `eval/statistics.py` instead.
"""

from __future__ import annotations

import numpy as np

from eval.statistics import Clusters, Estimate, Parts, cluster_table, mean_squares, unbounded

_BLOCK = 1 << 18  # counts held at once, 2 MiB: as many as stay in the cache


def seed_draws(n_seeds: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """`[R, S]` weights of the seeds in each replicate, each row a draw with replacement / S; rows sum to 1.

    One draw is shared by all tasks and arms of a comparison: a seed is one training run, good or bad at all of them.
    """
    return rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=replicates) / n_seeds


def resampled_means(
    scores: np.ndarray,
    seed_weights: np.ndarray,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> np.ndarray:
    """`[R, P]` bootstrap replicates of the mean over seeds and items of `scores[S, P, n]`; `P` may be arms, or points
    of a curve.

    seed_weights: `[R, S]` of `seed_draws`. Items, or whole clusters, are drawn anew for each replicate, the same for
    all seeds and points; with clusters the mean is the sum over the drawn clusters / the number of items in them.
    """
    return resampled_ratios(scores, np.ones(scores.shape[-1]), seed_weights, rng, clusters)


def resampled_ratios(
    numerators: np.ndarray,
    denominators: np.ndarray,
    seed_weights: np.ndarray,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> np.ndarray:
    """`[R, P]` replicates of `sum(numerators[S, P, n]) / sum(denominators[n])` over the drawn items, seeds weighted."""
    n_seeds, n_points, n_items = numerators.shape
    sums, sizes = _by_cluster(numerators.reshape(-1, n_items), np.asarray(denominators, float), clusters)
    replicates, n_units = len(seed_weights), len(sizes)
    block = max(1, _BLOCK // n_units)
    offsets = np.arange(block)[:, None] * n_units
    means = np.empty((replicates, n_points))
    for start in range(0, replicates, block):
        seeds = seed_weights[start : start + block]
        drawn = rng.integers(n_units, size=(len(seeds), n_units))
        drawn += offsets[: len(seeds)]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        totals = (counts @ sums.T).reshape(-1, n_seeds, n_points)
        means[start : start + block] = np.einsum("bsp,bs->bp", totals, seeds) / (counts @ sizes)[:, None]
    return means


def ratio_change(
    reference: np.ndarray,
    new: np.ndarray,
    weights: np.ndarray,
    clusters: Clusters | None = None,
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
    weights, rng = np.asarray(weights, float), np.random.default_rng(seed)
    value = float(change.mean(0).sum() / weights.sum())
    squares = mean_squares(cluster_table(value + (change - value * weights) / weights.mean(), clusters))
    parts = Parts(squares.seeds, (squares,))
    if parts.of_one:
        return unbounded(value, parts, "bootstrap")
    draws = resampled_ratios(change[:, None], weights, seed_draws(len(change), replicates, rng), rng, clusters)[:, 0]
    low95, low90, high90, high95 = (float(q) for q in np.quantile(draws, [0.025, 0.05, 0.95, 0.975]))
    below, above = (int((draws <= 0).sum()), int((draws >= 0).sum()))
    p = min(1.0, 2 * (min(below, above) + 1) / (replicates + 1))
    se = float(draws.std(ddof=1))
    return Estimate(value, se, parts.degrees(), (low95, high95), (low90, high90), p, "bootstrap", parts, draws=draws)


def _by_cluster(rows: np.ndarray, sizes: np.ndarray, clusters: Clusters | None) -> tuple[np.ndarray, np.ndarray]:
    """`rows[K, n]` and `sizes[n]` summed within clusters."""
    if clusters is None:
        return rows, sizes
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.stack([np.bincount(index, weights=row, minlength=len(labels)) for row in rows])
    return sums, np.bincount(index, weights=sizes, minlength=len(labels))
