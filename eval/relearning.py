"""Is a lost skill gone, or only buried? How many steps on its old data bring it back, against learning it as new.

Two trainings on the same data, in the same way: one starts from the model that lost the skill, one from a model that never had
it. Both are measured along the way. The steps are counted to where the curve, averaged over seeds, first reaches the threshold,
between two measurements by a straight line; a curve that does not get there is only known to need more than all its steps.

    savings = 1 - steps of the first / steps of the second

(Ebbinghaus's measure.) 1: the skill was there at once; 0: learned as if it had never been known; below 0: slower than that.
Intervals are two-way bootstraps over seeds and items, the same draw for both curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignment.core.errors import SuiteError
from eval.bootstrap import resampled_means, seed_draws
from eval.compare import arms_by_name
from eval.config import Relearning
from eval.pairing import pair_seeds, require_same_items, require_same_settings
from eval.results import MeasuredModel, ReportInput, plain
from eval.statistics import Interval

REPLICATES = 4000


@dataclass(frozen=True)
class Curve:
    """One training, measured. steps `[K]`, the first 0: the model that it starts from. scores `[S, K, n]`."""

    stage: str
    steps: np.ndarray
    scores: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """`[K]`, the mean over seeds and items."""
        return self.scores.mean((0, 2))

    def per_seed(self, threshold: float) -> list[float]:
        return steps_to(threshold, self.steps, self.scores.mean(-1)).tolist()


@dataclass(frozen=True)
class Bounded:
    """A number with its 95 % interval; infinite where a curve does not reach the threshold."""

    value: float
    ci: Interval

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "ci": list(self.ci), "ci_method": "bootstrap"}


@dataclass(frozen=True)
class RelearningResult:
    """What one declared probe found. steps_lost, steps_never: steps to the threshold. savings is NaN where nothing can be said:
    neither gets there, or the model that never had the skill is there from the start. Where one does not get there, its number
    of steps stands for more, and savings is a bound."""

    declared: Relearning
    seeds: tuple[int, ...]
    lost: Curve
    never: Curve
    steps_lost: Bounded
    steps_never: Bounded
    savings: Bounded

    @property
    def notes(self) -> tuple[str, ...]:
        threshold, task = self.declared.threshold, self.declared.task
        found = []
        if self.steps_lost.value == 0:
            found.append(f"{task} was not lost: {self.lost.values[0]:.2f} before the first step")
        if self.steps_never.value == 0:
            found.append(f"{self.never.stage} starts from a model that has the skill: no control")
        ends = sorted({int(self.lost.steps[-1]), int(self.never.steps[-1])})
        if len(ends) > 1:
            found.append(
                f"one side was trained for {ends[1]} steps, the other for {ends[0]}: savings count the first {ends[0]}"
            )
        for curve, steps, bound in (
            (self.lost, self.steps_lost, "at most"),
            (self.never, self.steps_never, "at least"),
        ):
            if math.isinf(steps.value):
                consequence = "" if math.isnan(self.savings.value) else f": savings are {bound} that"
                found.append(f"{curve.stage} does not reach {threshold} within {curve.steps[-1]} steps{consequence}")
            elif math.isinf(steps.ci[1]):
                found.append(
                    f"{curve.stage} does not reach {threshold} in some resamples: the interval ends in a bound"
                )
        return tuple(found)

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json` under `relearning`; null for steps = not within `last_step`."""
        sides = {"lost": (self.lost, self.steps_lost), "never": (self.never, self.steps_never)}
        entry = {
            "task": self.declared.task,
            "threshold": self.declared.threshold,
            "seeds": list(self.seeds),
            "n": self.lost.scores.shape[-1],
            "last_step": int(self.lost.steps[-1]),
            "savings": self.savings.as_json(),
            **{
                side: {
                    "stage": curve.stage,
                    "steps_to_threshold": steps.as_json() | {"per_seed": curve.per_seed(self.declared.threshold)},
                    "curve": {"steps": curve.steps.tolist(), "values": curve.values.tolist()},
                }
                for side, (curve, steps) in sides.items()
            },
            "warnings": list(self.notes),
        }
        return plain(entry)


def steps_to(threshold: float, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each curve `values[..., K]` over `steps[K]` first reaches the threshold, `[...]`; infinite where none of it does."""
    reached = values >= threshold
    first = reached.argmax(-1)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(values, place[..., None], -1)[..., 0] for place in (before, first))
    rise = np.where(high > low, high - low, 1.0)  # 0 only at the very start, where nothing is left to go
    share = np.where(first > 0, (threshold - low) / rise, 0.0)
    return np.where(reached.any(-1), steps[before] + share * (steps[first] - steps[before]), np.inf)


def savings_of(lost: np.ndarray, never: np.ndarray, last: float) -> np.ndarray:
    """1 - lost / never; a side that took more than `last` steps counts as that many. NaN where both did, or never is 0."""
    known = (np.isfinite(lost) | np.isfinite(never)) & (never > 0)
    return np.where(known, 1 - np.minimum(lost, last) / np.where(never > 0, np.minimum(never, last), 1.0), np.nan)


def relearned(
    declared: Relearning, seeds: Sequence[int], lost: Curve, never: Curve, clusters: np.ndarray | None = None
) -> RelearningResult:
    """Steps of both curves to the declared threshold, and what was saved."""
    last = float(min(lost.steps[-1], never.steps[-1]))
    rng = np.random.default_rng(0)
    both = np.concatenate([lost.scores, never.scores], axis=1)
    drawn = resampled_means(both, seed_draws(len(seeds), REPLICATES, rng), rng, clusters)
    parts = np.split(drawn, [len(lost.steps)], axis=1)
    draws = [steps_to(declared.threshold, curve.steps, part) for curve, part in zip((lost, never), parts, strict=True)]
    values = [steps_to(declared.threshold, curve.steps, curve.values) for curve in (lost, never)]
    steps_lost, steps_never = (
        Bounded(float(value), _interval(each)) for value, each in zip(values, draws, strict=True)
    )
    savings = Bounded(float(savings_of(values[0], values[1], last)), _interval(savings_of(draws[0], draws[1], last)))
    return RelearningResult(declared, tuple(seeds), lost, never, steps_lost, steps_never, savings)


def _interval(draws: np.ndarray) -> Interval:
    """The middle 95 % of the draws, some of which may be infinite; NaN ones say nothing."""
    ordered = np.sort(draws[~np.isnan(draws)])
    if not len(ordered):
        return (math.nan, math.nan)
    return float(ordered[math.floor(0.025 * (len(ordered) - 1))]), float(ordered[math.ceil(0.975 * (len(ordered) - 1))])


def measure_relearning(report: ReportInput) -> list[RelearningResult]:
    """Every declared probe. Raises SuiteError where the two sides were not measured alike, or not along training."""
    arms = arms_by_name(report.models)
    return [_measured(declared, arms) for declared in report.comparison.relearning]


def _measured(declared: Relearning, arms: Mapping[str, Sequence[MeasuredModel]]) -> RelearningResult:
    pairs = pair_seeds(_arm(declared.never, arms), _arm(declared.lost, arms))
    first = pairs[0][1]
    never = _curve([pair[0] for pair in pairs], declared.task, arms, first)
    lost = _curve([pair[1] for pair in pairs], declared.task, arms, first)
    return relearned(declared, [model.seed for _, model in pairs], lost, never, first.tasks[declared.task].clusters)


def _curve(
    models: Sequence[MeasuredModel], task: str, arms: Mapping[str, Sequence[MeasuredModel]], first: MeasuredModel
) -> Curve:
    """By seed: the model that training starts from, its snapshots, and what it ends with."""
    stage = models[0].stage
    where = f"relearning of {task}: {stage}"
    if models[0].parent is None:
        raise SuiteError(
            where, "the model that it starts from was not evaluated", "the start of the curve", "add it to models"
        )
    starts = [start for start, _ in pair_seeds(_arm(models[0].parent, arms), models)]
    rows, steps = [], set()
    for start, model in zip(starts, models, strict=True):
        end = int(model.training["steps"])
        snapshots = [each for each in model.snapshots if each.step is not None and each.step < end]
        points = [start, *snapshots, model]
        for point in points:
            if task not in point.tasks:
                raise SuiteError(
                    where, f"{point.name} was not measured on it", "the whole curve", f"add {task} to its tasks"
                )
            require_same_settings(task, first, point)
            require_same_items(task, first, point)
        steps.add((0, *(int(each.step or 0) for each in snapshots), end))
        rows.append(np.stack([point.tasks[task].scores for point in points]))
    if len(steps) > 1:
        raise SuiteError(where, "its seeds were measured at different steps", "the same steps", "run the recipe again")
    return Curve(stage, np.array(steps.pop()), np.stack(rows))


def _arm(name: str, arms: Mapping[str, Sequence[MeasuredModel]]) -> Sequence[MeasuredModel]:
    if name not in arms:
        raise SuiteError(
            "comparison.relearning", f"{name} was not evaluated", f"one of {', '.join(arms)}", "add it to models"
        )
    return arms[name]
