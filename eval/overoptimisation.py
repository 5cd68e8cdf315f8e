"""Over-optimisation: how the learned reward (proxy) and the exact score (gold) move with the distance from the start.

Gao, Schulman and Hilton (arXiv 2210.10760): with d = sqrt(KL) of policy and start, in nats a sequence, reinforcement
learning gains R(d) = d (a - b log d). Gold at the start is not known exactly either, so it is fitted beside a and b:
gold(d) = start + d (a - b log d), by least squares, with intervals from a bootstrap over whole training runs. For
b > 0 the curve turns down at d = exp(a / b - 1).
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
    """gold(d) = start + d (a - b log d). r2: the share of gold's variance that it explains. turn: where it is highest,
    None if that is not inside the distances seen; turn_seen: in how many of the bootstrap's curves it is."""

    start: float
    a: float
    b: float
    start_ci: Interval
    a_ci: Interval
    b_ci: Interval
    r2: float
    furthest: float
    turn: float | None
    turn_ci: Interval | None
    turn_seen: float

    def at(self, distance: np.ndarray) -> np.ndarray:
        """Fitted gold at distances `[n]`."""
        return _design(np.asarray(distance, float)) @ np.array([self.start, self.a, self.b])

    def as_json(self) -> dict[str, Any]:
        names = ("start", "a", "b", "start_ci", "a_ci", "b_ci", "r2", "furthest", "turn", "turn_ci", "turn_seen")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


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


def fit_gold(runs: Sequence[tuple[np.ndarray, np.ndarray]], *, replicates: int = REPLICATES, seed: int = 0) -> Fit | None:
    """Least squares over the points of all runs, (distance `[n]`, gold `[n]`) each; percentile intervals from a
    bootstrap that draws whole runs, since the steps of one run depend on each other. None for fewer than two runs, or
    where the distances cannot tell the three parameters apart."""
    if len(runs) < 2:
        return None
    designs = [_design(distance) for distance, _ in runs]
    squares = np.stack([design.T @ design for design in designs])
    products = np.stack([design.T @ gold for design, (_, gold) in zip(designs, runs, strict=True)])
    best = _solve(squares.sum(0)[None], products.sum(0)[None])
    if not len(best):
        return None
    drawn = np.random.default_rng(seed).multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=replicates)
    draws = _solve(np.einsum("rk,kij->rij", drawn, squares), drawn @ products)
    start, a, b = best[0].tolist()
    furthest = max(float(distance.max()) for distance, _ in runs)
    turns = np.array([_turn(a, b, math.inf) for _, a, b in draws.tolist()])
    seen = turns[turns < furthest]
    turn = _turn(a, b, furthest)
    intervals = [_percentiles(column) for column in draws.T]
    r2 = _explained(np.concatenate(designs) @ best[0], np.concatenate([gold for _, gold in runs]))
    turn_ci = _percentiles(seen) if turn is not None and len(seen) else None
    return Fit(start, a, b, *intervals, r2, furthest, turn, turn_ci, len(seen) / max(len(turns), 1))


def _run(stage: str, seed: int, rows: Sequence[Mapping[str, Any]]) -> Run | None:
    scored = [row for row in rows if is_number(row.get(GOLD))]
    keys = (KL, PROXY, GOLD) if scored else (KL, PROXY)
    points = np.array(columns(scored or rows, *keys), float)
    if len(points) < 3:
        return None
    distance = np.sqrt(np.maximum(points[:, 0], 0.0))  # a sampled KL near 0 may come out negative
    return Run(stage, seed, distance, points[:, 1], points[:, 2] if scored else None)


def _design(distance: np.ndarray) -> np.ndarray:
    """`[n, 3]`: the columns of start, a and b; d log d is 0 at 0."""
    logs = np.log(np.where(distance > 0, distance, 1.0))
    return np.stack([np.ones_like(distance), distance, -distance * logs], axis=1)


def _solve(squares: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Normal equations `[R, 3, 3]`, `[R, 3]`, those of full rank, solved: `[<=R, 3]`."""
    full = np.linalg.matrix_rank(squares, hermitian=True, rtol=1e-10) == 3
    return np.linalg.solve(squares[full], products[full][..., None])[..., 0]


def _turn(a: float, b: float, furthest: float) -> float | None:
    """The maximum of the curve: a - b (log d + 1) = 0. None without one before `furthest`; infinity if that is infinite."""
    turn = math.exp(min(a / b - 1, 700.0)) if b > 0 else math.inf
    return turn if turn < furthest or math.isinf(furthest) else None


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (math.nan, math.nan)
    return float(low), float(high)


def _explained(fitted: np.ndarray, seen: np.ndarray) -> float:
    total = float(((seen - seen.mean()) ** 2).sum())
    return 1 - float(((seen - fitted) ** 2).sum()) / total if total > 0 else math.nan


def _start_and_end(name: str, values: np.ndarray) -> dict[str, float]:
    parts = thinned([(value,) for value in values.tolist()], STRETCHES)
    return {f"{name}_start": parts[0][0], f"{name}_end": parts[-1][0]}
