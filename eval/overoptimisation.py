"""Over-optimisation: how the learned reward (proxy) and the exact score (gold) move with the distance from the start.

Gao, Schulman and Hilton (arXiv 2210.10760): with d = sqrt(KL) of policy and start, in nats a sequence, reinforcement
learning gains R(d) = d (a - b log d) over the start's score. a and b are fitted by least squares to each run's gold less
its gold at the first step, with intervals from a bootstrap over whole runs. For b > 0 the curve turns down at
d = exp(a / b - 1). The form is not a law (a gold score with a floor flattens where the curve goes on falling), so it
stands beside a free curve: the mean gold in equal stretches of distance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.training_log import columns, is_number, read_metrics, thinned

if TYPE_CHECKING:
    from eval.results import MeasuredModel

Interval = tuple[float, float]
KL, PROXY, GOLD = "rollout/kl", "rollout/score", "rollout/gold"
REPLICATES = 2000
BINS = 20  # of the free curve
STRETCHES = 12  # a run's best and last value are means over a twelfth of it, or the luckiest batch would win


@dataclass(frozen=True)
class Run:
    """The course of one training run. distance: `[n]` sqrt(KL), by step; proxy: `[n]`; gold: `[n]` or None."""

    stage: str
    seed: int
    distance: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray | None

    def as_json(self) -> dict[str, Any]:
        """Where it started, was best, and ended; each a mean over a twelfth of the run."""
        entry = {"stage": self.stage, "seed": self.seed, "steps": len(self.distance)}
        entry |= _start_and_end("distance", self.distance) | _start_and_end("proxy", self.proxy)
        if self.gold is None:
            return entry
        pairs = thinned(list(zip(self.distance.tolist(), self.gold.tolist(), strict=True)), STRETCHES)
        best = max(pairs, key=lambda pair: pair[1])
        return entry | _start_and_end("gold", self.gold) | {"gold_best": best[1], "gold_best_distance": best[0]}


@dataclass(frozen=True)
class Fit:
    """gold(d) = start + d (a - b log d), start being the runs' mean gold at their first step.

    r2, r2_free: the share of the variance of gold's gain that the curve, and that the means in BINS stretches, explain.
    furthest: the largest distance seen. turn: where the curve is highest, None if that is not inside the distances seen;
    turn_seen: in what share of the bootstrap's curves it is. means: distance and gold of each stretch, as seen.
    """

    start: float
    a: float
    b: float
    a_ci: Interval
    b_ci: Interval
    r2: float
    r2_free: float
    furthest: float
    turn: float | None
    turn_ci: Interval | None
    turn_seen: float
    means: tuple[tuple[float, float], ...]

    @property
    def highest(self) -> tuple[float, float]:
        """Distance and gold of the best stretch."""
        return max(self.means, key=lambda mean: mean[1])

    def at(self, distance: np.ndarray) -> np.ndarray:
        """Fitted gold at distances `[n]`."""
        return self.start + _design(np.asarray(distance, float)) @ np.array([self.a, self.b])

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"highest": self.highest}


@dataclass(frozen=True)
class Overoptimisation:
    """Some arms' runs together, with the curve through their gold scores where there is one."""

    runs: tuple[Run, ...]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(run.stage for run in self.runs))

    @cached_property
    def fit(self) -> Fit | None:
        return fit_gold([(run.distance, run.gold) for run in self.runs if run.gold is not None])

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        runs = [run.as_json() for run in self.runs]
        return {"arms": self.arms, "runs": runs, "fit": self.fit.as_json() if self.fit else None}


def overoptimisation(models: Sequence[MeasuredModel]) -> list[Overoptimisation]:
    """One entry for each arm that logged KL and reward, and one for all such arms together if there are several: the
    published curves fell together for different KL penalties."""
    runs = [run for model in models if (run := _run(model.stage, model.seed, read_metrics(model.metrics)))]
    arms = list(dict.fromkeys(run.stage for run in runs))
    entries = [Overoptimisation(tuple(run for run in runs if run.stage == arm)) for arm in arms]
    return [Overoptimisation(tuple(runs)), *entries] if len(arms) > 1 else entries


def fit_gold(
    runs: Sequence[tuple[np.ndarray, np.ndarray]], *, replicates: int = REPLICATES, seed: int = 0
) -> Fit | None:
    """Least squares over the points of all runs, (distance `[n]`, gold `[n]`) each, by step; percentile intervals from a
    bootstrap that draws whole runs, since the steps of one run depend on each other. None for fewer than two runs, or
    where the distances cannot tell the two parameters apart."""
    if len(runs) < 2:
        return None
    designs, gains = [_design(distance) for distance, _ in runs], [gold - gold[0] for _, gold in runs]
    squares = np.stack([design.T @ design for design in designs])
    products = np.stack([design.T @ gain for design, gain in zip(designs, gains, strict=True)])
    best = _solve(squares.sum(0)[None], products.sum(0)[None])
    if not len(best):
        return None
    drawn = np.random.default_rng(seed).multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=replicates)
    draws = _solve(np.einsum("rk,kij->rij", drawn, squares), drawn @ products)
    a, b = best[0].tolist()
    distances, gain = np.concatenate([distance for distance, _ in runs]), np.concatenate(gains)
    start, furthest = float(np.mean([gold[0] for _, gold in runs])), float(distances.max())
    turns = np.array([_turn(*draw) for draw in draws.tolist()])
    seen, turn = turns[turns < furthest], _turn(a, b)
    middles, means, _ = _free_curve(distances, np.concatenate([gold for _, gold in runs]))
    return Fit(
        start=start,
        a=a,
        b=b,
        a_ci=_percentiles(draws[:, 0]),
        b_ci=_percentiles(draws[:, 1]),
        r2=_explained(np.concatenate(designs) @ best[0], gain),
        r2_free=_explained(_free_curve(distances, gain)[2], gain),
        furthest=furthest,
        turn=turn if turn < furthest else None,
        turn_ci=_percentiles(seen) if turn < furthest and len(seen) else None,
        turn_seen=len(seen) / len(turns),
        means=tuple(zip(middles.tolist(), means.tolist(), strict=True)),
    )


def _free_curve(distance: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean distance and mean value of each of BINS equal stretches that has points, and each point's mean `[n]`."""
    stretch = np.minimum((distance / distance.max() * BINS).astype(int), BINS - 1)
    _, index = np.unique(stretch, return_inverse=True)
    counts = np.bincount(index)
    middles, means = np.bincount(index, distance) / counts, np.bincount(index, values) / counts
    return middles, means, means[index]


def _run(stage: str, seed: int, rows: Sequence[Mapping[str, Any]]) -> Run | None:
    scored = [row for row in rows if is_number(row.get(GOLD))]
    keys = (KL, PROXY, GOLD) if scored else (KL, PROXY)
    points = np.array(columns(scored or rows, *keys), float)
    if len(points) < 3:
        return None
    distance = np.sqrt(np.maximum(points[:, 0], 0.0))  # a sampled KL near 0 may come out negative
    return Run(stage, seed, distance, points[:, 1], points[:, 2] if scored else None)


def _design(distance: np.ndarray) -> np.ndarray:
    """`[n, 2]`: the columns of a and b; d log d is 0 at 0."""
    logs = np.log(np.where(distance > 0, distance, 1.0))
    return np.stack([distance, -distance * logs], axis=1)


def _solve(squares: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Normal equations `[R, 2, 2]`, `[R, 2]`, those of full rank, solved: `[<=R, 2]`."""
    full = np.linalg.matrix_rank(squares, hermitian=True, rtol=1e-10) == 2
    return np.linalg.solve(squares[full], products[full][..., None])[..., 0]


def _turn(a: float, b: float) -> float:
    """The maximum of the curve: a - b (log d + 1) = 0; infinity where it has none."""
    return math.exp(min(a / b - 1, 700.0)) if b > 0 else math.inf


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (math.nan, math.nan)
    return float(low), float(high)


def _explained(fitted: np.ndarray, seen: np.ndarray) -> float:
    total = float(((seen - seen.mean()) ** 2).sum())
    return 1 - float(((seen - fitted) ** 2).sum()) / total if total > 0 else math.nan


def _start_and_end(name: str, values: np.ndarray) -> dict[str, float]:
    parts = thinned([(value,) for value in values.tolist()], STRETCHES)
    return {f"{name}_start": parts[0][0], f"{name}_end": parts[-1][0]}
