"""Arms compared at equal gain: which method forgets less on its way to the same score on the target?

Two arbitrary end points prove nothing: a method that was trained for longer gains and forgets more. So each arm is a path
through the plane of gain and retained change, from the base through every model that was measured along its training. At a
level of gain an arm is read off where its path first reaches that level, between two measurements by a straight line. Levels
that one of two arms does not reach are not compared: nothing is extrapolated. The numbers are made in `eval/equal_gain.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from alignment.core.errors import RecipeError, SuiteError
from eval.compare import arms_by_name
from eval.config import Frontier, Role
from eval.equal_gain import Path, Plane, TaskScores, differences
from eval.pairing import require_same_items, require_same_settings
from eval.results import MeasuredModel
from eval.scales import on_one_scale
from eval.statistics import Interval, adjust


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
    """Retained change of two arms at one gain, and the difference with its interval."""

    gain: float
    reference: float
    new: float
    difference: float
    ci: Interval


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


def frontier(declared: Frontier, models: Sequence[MeasuredModel], roles: Mapping[str, Role]) -> FrontierResult:
    """Every arm's path, and the declared pairs of arms at equal gain.

    models: all finished ones, with their snapshots. roles: the recipe's tasks. Raises RecipeError for an arm without measured
    models, SuiteError where models were not measured alike.
    """
    by_stage = arms_by_name(models)
    ways = {
        arm: [_path(stages, declared.base, by_stage) for stages in paths] for arm, paths in declared.paths().items()
    }
    places = list(dict.fromkeys(place for paths in ways.values() for path in paths for place in path))
    seeds = _common_seeds({stage: by_stage[stage] for stage, _ in places})
    cube = [_models_at(place, seeds, by_stage) for place in places]  # [P][S]
    tasks: dict[Role, list[str]] = {role: _tasks_of_axis(role, roles, cube[0][0]) for role in ("target", "retained")}
    plane = Plane(*([_scores(task, cube) for task in tasks[role]] for role in ("target", "retained")))
    index = {place: number for number, place in enumerate(places)}
    paths = {arm: [[index[place] for place in path] for path in of] for arm, of in ways.items()}
    measured = [_measured(plane, number) for number in range(len(places))]
    points = [
        Point(arm, number, *place, *measured[index[place]])
        for arm, of in ways.items()
        for number, path in enumerate(of)
        for place in path
    ]
    matched = _with_holm([_matched(a, b, plane, paths[a], paths[b]) for a, b in declared.pairs()])
    names = (tuple(tasks["target"]), tuple(tasks["retained"]))
    return FrontierResult(declared.base, len(seeds), *names, tuple(points), tuple(matched))


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


def _common_seeds(stages: Mapping[str, Sequence[MeasuredModel]]) -> list[int]:
    """The seeds that every stage was trained with; one that was trained once stands for each. Raises SuiteError if they differ."""
    own = {stage: sorted(model.seed for model in models) for stage, models in stages.items()}
    several = {stage: seeds for stage, seeds in own.items() if len(seeds) > 1} or own
    (first, seeds), *others = several.items()
    for stage, theirs in others:
        if theirs != seeds and len(seeds) > 1:
            what = f"{first} was measured at the seeds {seeds}, {stage} at {theirs}"
            raise SuiteError("comparison.frontier", what, "the same seeds everywhere", "run the missing seeds")
    return seeds


def _models_at(
    place: Place, seeds: Sequence[int], by_stage: Mapping[str, Sequence[MeasuredModel]]
) -> list[MeasuredModel]:
    """By seed: that snapshot, or the finished model."""
    stage, step = place
    own = {model.seed: model for model in by_stage[stage]}
    models = [own[seed] for seed in seeds] if len(own) > 1 else [*own.values()] * len(seeds)
    if step is None:
        return models
    return [next(one for one in model.snapshots if one.step == step) for model in models]


def _tasks_of_axis(role: Role, roles: Mapping[str, Role], model: MeasuredModel) -> list[str]:
    """The tasks whose mean makes the axis."""
    chosen = on_one_scale({task: model.tasks[task] for task, of in roles.items() if of == role and task in model.tasks})
    if not chosen:
        raise RecipeError(f"evaluation.{role}", "no task was measured", "at least one, for the frontier", "name a task")
    return chosen


def _scores(task: str, cube: Sequence[Sequence[MeasuredModel]]) -> TaskScores:
    """The scores of all models; for bits per byte the documents' bits, to be divided by their bytes."""
    first = cube[0][0]
    for row in cube:
        for model in row:
            require_same_settings(task, first, model)
            require_same_items(task, first, model)
    items = first.tasks[task]
    in_bits = items.metric == "bits_per_byte"
    table = [
        [-m.tasks[task].numbers("log_likelihood") / math.log(2) if in_bits else m.tasks[task].scores for m in row]
        for row in cube
    ]
    sizes = items.numbers("bytes") if in_bits else np.ones(len(items.keys))
    return TaskScores(np.array(table).swapaxes(0, 1), sizes, 1 if items.higher_is_better else -1, items.clusters)


def _measured(plane: Plane, place: int) -> tuple[float, Interval, float, Interval]:
    """Gain and retained change of one model, each with its interval."""
    gain = plane.estimate(lambda x, _: float(x[place]))
    kept = plane.estimate(lambda _, y: float(y[place]))
    return gain.value, gain.ci95, kept.value, kept.ci95


def _matched(a: str, b: str, plane: Plane, reference: Sequence[Path], new: Sequence[Path]) -> Matched:
    found = differences(plane, reference, new)
    if found is None:
        return Matched(a, b)
    common, mean, shown = found
    levels = tuple(Level(gain, left, right, e.value, e.ci95) for gain, left, right, e in shown)
    return Matched(a, b, common, levels, mean.value, mean.ci95, mean.p)


def _with_holm(matched: Sequence[Matched]) -> list[Matched]:
    adjusted = iter(adjust([one.p for one in matched if one.p is not None], "holm"))
    return [replace(one, p_adjusted=next(adjusted)) if one.p is not None else one for one in matched]
