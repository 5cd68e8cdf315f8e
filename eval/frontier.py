"""Arms compared at equal gain: which method forgets less on its way to the same score on the target?

Two arbitrary end points prove nothing: a method that was trained for longer gains and forgets more. So each arm is a path
through the plane of gain and retained change, from the base through every model that was measured along its training. At a
level of gain an arm is read off where its path first reaches that level, between two measurements by a straight line. Levels
that one of two arms does not reach are not compared: nothing is extrapolated.

Intervals are two-way bootstraps: seeds are drawn once for all arms and tasks, and items once for all models of a task, so what
arms share (base, seeds, items) cancels in their difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alignment.core.errors import RecipeError
from eval.bootstrap import resampled_ratios, seed_draws
from eval.config import Frontier, Role
from eval.pairing import require_same_items, require_same_settings
from eval.results import MeasuredModel, TaskItems
from eval.statistics import Interval, adjust

REPLICATES = 4000
SHARES = (0.25, 0.5, 0.75, 0.9)  # of the common range of gain: the levels that are shown
_FINE = 40  # levels over which the mean difference is taken
_MISSED = 0.05  # share of resamples that may miss a level: more, and no interval is given there
_PROPORTIONS = ("acc", "exact_match")


@dataclass(frozen=True)
class Point:
    """One measured model on an arm's path: mean gain on the target tasks and mean change of the retained ones, from the base.
    path: which of the arm's paths, from 0. step: None for a finished model."""

    arm: str
    path: int
    stage: str
    step: int | None
    gain: float
    gain_ci: Interval
    kept: float
    kept_ci: Interval


@dataclass(frozen=True)
class Level:
    """Retained change of two arms at one gain. ci: None where too many resamples do not reach the level."""

    gain: float
    reference: float
    new: float
    difference: float
    ci: Interval | None
    reached: float  # share of resamples in which both arms get there


@dataclass(frozen=True)
class Matched:
    """Arm `new` against arm `reference` at equal gain. overlap: the range of gain that both reach; None = "no overlap", and
    then there is nothing else. difference: mean over that range of (retained change of new - that of reference)."""

    reference: str
    new: str
    overlap: Interval | None = None
    levels: tuple[Level, ...] = ()
    difference: float | None = None
    ci: Interval | None = None
    p: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class FrontierResult:
    """n_seeds: training seeds. target, retained: the tasks whose means are the two axes."""

    base: str
    n_seeds: int
    target: tuple[str, ...]
    retained: tuple[str, ...]
    points: tuple[Point, ...]
    matched: tuple[Matched, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def frontier(
    declared: Frontier, models: Sequence[MeasuredModel], roles: Mapping[str, Role], replicates: int = REPLICATES
) -> FrontierResult:
    """Every arm's path, and the declared pairs of arms at equal gain.

    models: all finished ones, with their snapshots. roles: the recipe's tasks. Raises RecipeError for an arm without measured
    models, SuiteError where models were not measured alike.
    """
    by_stage: dict[str, list[MeasuredModel]] = {}
    for model in models:
        by_stage.setdefault(model.stage, []).append(model)
    paths = {arm: [_path(stages, declared.base, by_stage) for stages in ways] for arm, ways in declared.paths().items()}
    places = list(dict.fromkeys(place for ways in paths.values() for way in ways for place in way))
    cube = [_models_at(place, by_stage) for place in places]  # [P][S]
    seeds = max(len(row) for row in cube)
    cube = [row * seeds if len(row) == 1 else row for row in cube]
    weights = seed_draws(seeds, replicates, np.random.default_rng(0))
    axes, drawn, tasks = {}, {}, {}
    for role in ("target", "retained"):
        tasks[role] = _tasks_of_axis(role, roles, cube[0][0])
        axes[role], drawn[role] = _axis(tasks[role], cube, weights)
    index = {place: number for number, place in enumerate(places)}
    curves = {
        arm: [_Curve([index[place] for place in way], axes, drawn) for way in ways] for arm, ways in paths.items()
    }
    points = [
        _point(arm, number, place, index[place], axes, drawn)
        for arm, ways in paths.items()
        for number, way in enumerate(ways)
        for place in way
    ]
    matched = [_matched(a, b, curves[a], curves[b]) for a, b in declared.pairs()]
    return FrontierResult(
        declared.base,
        seeds,
        tuple(tasks["target"]),
        tuple(tasks["retained"]),
        tuple(points),
        tuple(_with_holm(matched)),
    )


Place = tuple[str, int | None]  # stage and step


def _path(stages: Sequence[str], base: str, by_stage: Mapping[str, Sequence[MeasuredModel]]) -> list[Place]:
    """The base, then every measured model of the stages in turn; of snapshots, those at steps that all seeds have."""
    places: list[Place] = [(base, None)]
    for stage in stages:
        if stage not in by_stage:
            raise RecipeError(
                "comparison.frontier", f"{stage} was not evaluated", f"one of {', '.join(by_stage)}", "add it to models"
            )
        common = set.intersection(*({snapshot.step for snapshot in model.snapshots} for model in by_stage[stage]))
        places += [(stage, step) for step in sorted(common, key=int)] + [(stage, None)]  # type: ignore[arg-type]
    return places


def _models_at(place: Place, by_stage: Mapping[str, Sequence[MeasuredModel]]) -> list[MeasuredModel]:
    """By seed: that snapshot, or the finished model."""
    stage, step = place
    models = sorted(by_stage[stage], key=lambda model: model.seed)
    if step is None:
        return models
    return [next(one for one in model.snapshots if one.step == step) for model in models]


def _tasks_of_axis(role: Role, roles: Mapping[str, Role], model: MeasuredModel) -> list[str]:
    """The tasks whose mean makes the axis: all on one scale, proportions first, else what all of them share."""
    mine = [task for task, of in roles.items() if of == role]
    metrics = {task: model.tasks[task].metric for task in mine if task in model.tasks}
    proportions = [task for task, metric in metrics.items() if metric in _PROPORTIONS]
    if proportions:
        return proportions
    first = next(iter(metrics.values()), None)
    chosen = [task for task, metric in metrics.items() if metric == first]
    if not chosen:
        raise RecipeError(f"evaluation.{role}", "no task was measured", "at least one, for the frontier", "name a task")
    return chosen


def _axis(
    tasks: Sequence[str], cube: Sequence[Sequence[MeasuredModel]], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean change over tasks from the first place, higher is better: as measured [P], and for each resample [R, P]."""
    plain, drawn = np.zeros(len(cube)), np.zeros((len(weights), len(cube)))
    for number, task in enumerate(tasks):
        items: TaskItems = cube[0][0].tasks[task]
        scores, sizes = _scores(task, cube)
        means = scores.mean(0).sum(1) / sizes.sum()
        resampled = resampled_ratios(scores, sizes, weights, np.random.default_rng(number + 1), items.clusters)
        sign = 1 if items.higher_is_better else -1
        plain += sign * (means - means[0]) / len(tasks)
        drawn += sign * (resampled - resampled[:, :1]) / len(tasks)
    return plain, drawn


def _scores(task: str, cube: Sequence[Sequence[MeasuredModel]]) -> tuple[np.ndarray, np.ndarray]:
    """Items' scores [S, P, n] and the weights [n] that their sum is divided by: documents' bits and bytes, or scores and ones."""
    first = cube[0][0]
    for row in cube:
        for model in row:
            require_same_settings(task, first, model)
            require_same_items(task, first, model)
    items = first.tasks[task]
    if items.metric == "bits_per_byte":
        table = [[-model.tasks[task].numbers("log_likelihood") / math.log(2) for model in row] for row in cube]
        return np.array(table).swapaxes(0, 1), items.numbers("bytes")
    table = [[model.tasks[task].scores for model in row] for row in cube]
    return np.array(table).swapaxes(0, 1), np.ones(len(items.keys))


class _Curve:
    """One path: gain and retained change as measured, [K], and for each resample, [R, K]."""

    def __init__(self, places: Sequence[int], axes: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]) -> None:
        self.gain, self.kept = axes["target"][places], axes["retained"][places]
        self.drawn_gain, self.drawn_kept = drawn["target"][:, places], drawn["retained"][:, places]


def at_gain(gain: np.ndarray, kept: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Where paths first reach levels of gain: their retained change there, [R, L], from paths [R, K]. NaN = never reached, or
    not starting below the level."""
    reached = gain[:, :, None] >= levels  # [R, K, L]
    place = reached.argmax(1)  # the first
    valid = reached.any(1) & (place > 0)
    rows = np.arange(len(gain))[:, None]
    after, before = place, np.maximum(place - 1, 0)
    rise = gain[rows, after] - gain[rows, before]
    share = (levels - gain[rows, before]) / np.where(valid, rise, 1.0)
    value = kept[rows, before] + share * (kept[rows, after] - kept[rows, before])
    return np.where(valid, value, np.nan)


def _best(curves: Sequence[_Curve], levels: np.ndarray, drawn: bool) -> np.ndarray:
    """The best of an arm's paths at each level, [R, L]; one row for the paths as measured."""
    values = [
        at_gain(curve.drawn_gain, curve.drawn_kept, levels)
        if drawn
        else at_gain(curve.gain[None], curve.kept[None], levels)
        for curve in curves
    ]
    stacked = np.stack(values)
    reached = ~np.isnan(stacked)
    best = np.where(reached, stacked, -np.inf).max(0)
    return np.where(reached.any(0), best, np.nan)


def _matched(a: str, b: str, reference: Sequence[_Curve], new: Sequence[_Curve]) -> Matched:
    arms = (reference, new)
    low = max(min(curve.gain[0] for curve in arm) for arm in arms)
    high = min(max(curve.gain.max() for curve in arm) for arm in arms)
    if high <= low:
        return Matched(a, b)
    shown = low + (high - low) * np.array(SHARES)
    fine = low + (high - low) * (np.arange(_FINE) + 0.5) / _FINE
    values = [_best(arm, shown, drawn=False)[0] for arm in arms]
    drawn = [_best(arm, shown, drawn=True) for arm in arms]
    differences = drawn[1] - drawn[0]
    levels = [_level(gain, values[0][i], values[1][i], differences[:, i]) for i, gain in enumerate(shown)]
    mean = float(np.nanmean(_best(new, fine, drawn=False) - _best(reference, fine, drawn=False)))
    draws = _mean_reached(_best(new, fine, drawn=True) - _best(reference, fine, drawn=True))
    return Matched(a, b, (float(low), float(high)), tuple(levels), mean, _interval(draws), _p(draws))


def _mean_reached(differences: np.ndarray) -> np.ndarray:
    """[R]: mean over the levels that a resample reaches; resamples that reach none are left out."""
    some = ~np.isnan(differences).all(1)
    return np.nanmean(differences[some], axis=1)


def _level(gain: float, reference: float, new: float, differences: np.ndarray) -> Level:
    reached = ~np.isnan(differences)
    share = float(reached.mean())
    ci = _interval(differences[reached]) if share >= 1 - _MISSED else None
    return Level(float(gain), float(reference), float(new), float(new - reference), ci, share)


def _interval(draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _p(draws: np.ndarray) -> float:
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(draws) + 1)))


def _with_holm(matched: Sequence[Matched]) -> list[Matched]:
    tested = [one.p for one in matched if one.p is not None]
    adjusted = iter(adjust(tested, "holm"))
    return [replace(one, p_adjusted=next(adjusted)) if one.p is not None else one for one in matched]


def _point(
    arm: str, path: int, place: Place, index: int, axes: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> Point:
    gain, kept = (float(axes[role][index]) for role in ("target", "retained"))
    intervals = (_interval(drawn[role][:, index]) for role in ("target", "retained"))
    gain_ci, kept_ci = intervals
    return Point(arm, path, *place, gain, gain_ci, kept, kept_ci)
