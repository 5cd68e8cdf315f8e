"""Two arms at equal gain, as numbers: paths through the plane of gain and retained change, read off at the same gains.

Axes hold one number a model ("place"), measured from the base: gain on the target, change on the retained tasks. A path is a list
of places. Intervals: the difference of two arms is a smooth function of the models' mean scores nearly everywhere, so it is
linearised there, and the linearised items get the crossed interval over seeds and items of `eval/statistics.py`. What two arms
share (base, seeds, items) cancels item by item. A bootstrap instead covered 84 % at 3 seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from eval.statistics import Clusters, Estimate, Interval, group, t_estimate

SHARES = (0.25, 0.5, 0.75, 0.9)  # of the common range of gain: the levels that are shown
_FINE = 40  # levels over which the mean difference is taken
_STEP = 1e-6  # of the numeric gradient
Path = Sequence[int]


@dataclass(frozen=True)
class TaskScores:
    """scores [S, P, n] of one task: seeds, places (place 0 is the base), items. sizes [n]: what their sum is divided by, ones or the
    documents' bytes. sign: 1 where higher is better, else -1."""

    scores: np.ndarray
    sizes: np.ndarray
    sign: int
    clusters: Clusters | None

    def changes(self) -> np.ndarray:
        """Change of every place from the base, [P], higher is better."""
        means = self.scores.mean(0).sum(1) / self.sizes.sum()
        return self.sign * (means - means[0])

    def items_of(self, weights: np.ndarray) -> np.ndarray:
        """Each item's part in `sum over places of weights[p] * changes()[p]`, [S, n]; their mean is that sum."""
        change = np.einsum("p,spn->sn", weights, self.scores - self.scores[:, :1])
        total = change.mean(0).sum() / self.sizes.sum()
        return self.sign * (total + (change - total * self.sizes) / self.sizes.mean())


@dataclass(frozen=True)
class Plane:
    """target, retained: the tasks whose means are the two axes."""

    target: Sequence[TaskScores]
    retained: Sequence[TaskScores]

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Gain and retained change of every place, [P] each."""
        gain, kept = (np.mean([task.changes() for task in tasks], axis=0) for tasks in (self.target, self.retained))
        return gain, kept

    def estimate(self, number: Callable[[np.ndarray, np.ndarray], float]) -> Estimate:
        """A function of both axes, with its crossed interval over seeds and items."""
        gain, kept = self.axes()
        slopes = (_gradient(lambda x: number(x, kept), gain), _gradient(lambda y: number(gain, y), kept))
        axes = zip((self.target, self.retained), slopes, strict=True)
        counting = [(task, slope / len(tasks)) for tasks, slope in axes for task in tasks if slope.any()]
        if not counting:  # nothing that was measured moves the number
            counting = [(task, np.zeros_like(gain)) for task in self.target]
        tables = [len(counting) * task.items_of(slope) for task, slope in counting]  # `group` takes the mean over tasks
        clusters = [None if task.clusters is None else np.asarray(task.clusters) for task, _ in counting]
        linear = group(tables, clusters)
        return t_estimate(number(gain, kept), linear.parts, linear.method)


def _gradient(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    slope = np.zeros_like(at)
    for place in range(1, len(at)):  # the base itself is the origin
        step = np.zeros_like(at)
        step[place] = _STEP
        slope[place] = (function(at + step) - function(at - step)) / (2 * _STEP)
    return slope


def at_gain(gain: np.ndarray, kept: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Where a path [K] first reaches levels of gain [L]: its retained change there, between two models on a straight line. NaN =
    never reached, or not starting below the level."""
    reached = gain[:, None] >= levels
    after = reached.argmax(0)
    valid = reached.any(0) & (after > 0)
    before = np.maximum(after - 1, 0)
    rise = np.where(valid, gain[after] - gain[before], 1.0)
    value = kept[before] + (levels - gain[before]) / rise * (kept[after] - kept[before])
    return np.where(valid, value, np.nan)


def overlap(gain: np.ndarray, a: Sequence[Path], b: Sequence[Path]) -> Interval | None:
    """The range of gain that both arms reach on ways of their own: where they go the same way, from the base to a model that both go
    on from, there is nothing to compare. None if there is no such range."""
    paths = [*a, *b]
    steps = takewhile(lambda places: len(set(places)) == 1, zip(*paths, strict=False))
    shared = [places[0] for places in steps]
    low = max(gain[place] for place in shared or [path[0] for path in paths])
    high = min(max(gain[list(path)].max() for path in arm) for arm in (a, b))
    return (float(low), float(high)) if high > low else None


def kept_at(gain: np.ndarray, kept: np.ndarray, paths: Sequence[Path], levels: np.ndarray) -> np.ndarray:
    """An arm's retained change at each level, [L]: the mean over those of its paths that reach it. Not the best of them, which would
    be the luckiest."""
    values = np.stack([at_gain(gain[list(path)], kept[list(path)], levels) for path in paths])
    reached = ~np.isnan(values)
    return np.where(reached.any(0), np.nansum(values, 0) / np.maximum(reached.sum(0), 1), np.nan)


def differences(
    plane: Plane, a: Sequence[Path], b: Sequence[Path]
) -> tuple[Interval, Estimate, list[tuple[float, float, float, Estimate]]] | None:
    """Retained change of arm `b` minus that of `a` at equal gain: the common range, the mean difference over it, and at each shown
    level (gain, a, b, difference). None where nothing is reached by both."""
    gain, kept = plane.axes()
    common = overlap(gain, a, b)
    if common is None:
        return None
    low, high = common

    def difference(levels: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
        return lambda x, y: float(np.nanmean(kept_at(x, y, b, levels) - kept_at(x, y, a, levels)))

    fine = low + (high - low) * (np.arange(_FINE) + 0.5) / _FINE
    shown = []
    for level in low + (high - low) * np.array(SHARES):
        here = np.array([level])
        values = [float(kept_at(gain, kept, arm, here)[0]) for arm in (a, b)]
        shown.append((float(level), *values, plane.estimate(difference(here))))
    return common, plane.estimate(difference(fine)), shown
