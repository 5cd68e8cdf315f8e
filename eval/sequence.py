"""Tasks learned one after the other: what each stage did to the tasks before it and to those after it.

`R[l, i]` is the score on task i after stage l. Stage 0 is the base; stage l teaches task l. With T tasks

    average forgetting   AF  = 1/(T-1) sum_{i<T} (max_{l<T} R[l, i] - R[T, i])
    backward transfer    BWT = 1/(T-1) sum_{i<T} (R[T, i] - R[i, i])
    forward transfer     FWT = 1/(T-1) sum_{i>1} (R[i-1, i] - R[0, i])

(GEM, arXiv 1706.08840; TRACE, arXiv 2310.06762.) The base counts among the stages of the maximum. All three are estimated as means
of paired differences, with the crossed interval of a group of tasks. For AF the best stage is found on other seeds and other items
than those that it is read off on: the highest of the scores themselves would count luck as forgetting.

Several orders of the same tasks share seeds and items, so they are no independent samples: their mean, and the difference
between two methods, are taken item by item before anything is said about spread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from alignment.core.errors import SuiteError
from eval import statistics
from eval.compare import arms_by_name
from eval.config import TaskSequence
from eval.pairing import pair_seeds, pair_task
from eval.results import MeasuredModel, ReportInput
from eval.statistics import Estimate

FEW_TASKS = "two tasks in a row: each number is about one task; three or more say something about the method"


@dataclass(frozen=True)
class Order:
    """One sequence, measured. scores: by task `[S, T + 1, n]`, seeds by stages (the base first) by items. clusters: by task, the
    items' sources or None."""

    name: str
    method: str
    base: str
    stages: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, np.ndarray]
    clusters: Mapping[str, np.ndarray | None]

    @property
    def seed_matrices(self) -> np.ndarray:
        """R of each seed, `[S, T + 1, T]`."""
        return np.stack([self.scores[task].mean(-1) for task in self.tasks], axis=-1)

    @property
    def matrix(self) -> np.ndarray:
        """R, `[T + 1, T]`, the mean over seeds."""
        return self.seed_matrices.mean(0)


@dataclass(frozen=True)
class Transfer:
    """AF, BWT and FWT of one order, of the mean over a method's orders, or of the difference between two methods (the last named
    minus the first). orders: each with its weight."""

    name: str
    kind: Literal["order", "mean", "difference"]
    orders: tuple[tuple[float, Order], ...]
    forgetting: Estimate
    backward: Estimate
    forward: Estimate

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.orders[0][1].seeds

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.orders[0][1].tasks

    @property
    def notes(self) -> tuple[str, ...]:
        return (FEW_TASKS,) if len(self.tasks) < 3 else ()

    def per_seed(self, number: Callable[[np.ndarray], np.ndarray]) -> list[float]:
        """One of the three formulas below, for each seed alone."""
        return np.asarray(sum(weight * number(order.seed_matrices) for weight, order in self.orders)).tolist()

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json` under `sequences`; `scores` is R, row by stage, the base first. `per_seed` follows the formulas to
        the letter, so a seed's AF has its luck in it."""
        first = self.orders[0][1]
        entry: dict[str, Any] = {"name": self.name, "kind": self.kind, "seeds": list(self.seeds)}
        if self.kind == "order":
            entry |= {
                "method": first.method,
                "base": first.base,
                "stages": list(first.stages),
                "tasks": list(first.tasks),
            }
            entry |= {"scores": first.matrix.tolist(), "scores_by_seed": first.seed_matrices.tolist()}
        else:
            entry |= {"orders": [order.name for _, order in self.orders], "tasks": sorted(first.tasks)}
        entry["n"] = {task: first.scores[task].shape[-1] for task in entry["tasks"]}
        for key, estimate, number in (
            ("average_forgetting", self.forgetting, average_forgetting),
            ("bwt", self.backward, backward_transfer),
            ("fwt", self.forward, forward_transfer),
        ):
            entry[key] = {"value": estimate.value, "ci": list(estimate.ci95), "ci_method": estimate.method}
            entry[key]["per_seed"] = self.per_seed(number)
        return entry | {"warnings": list(self.notes)}


def average_forgetting(matrix: np.ndarray) -> np.ndarray:
    """AF of `R[..., T + 1, T]`."""
    return (matrix[..., :-1, :-1].max(-2) - matrix[..., -1, :-1]).mean(-1)


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """BWT of `R[..., T + 1, T]`."""
    when_taught = np.diagonal(matrix[..., 1:, :], axis1=-2, axis2=-1)
    return (matrix[..., -1, :-1] - when_taught[..., :-1]).mean(-1)


def forward_transfer(matrix: np.ndarray) -> np.ndarray:
    """FWT of `R[..., T + 1, T]`."""
    before_taught = np.diagonal(matrix[..., :-1, :], axis1=-2, axis2=-1)
    return (before_taught[..., 1:] - matrix[..., 0, 1:]).mean(-1)


def measure_sequences(report: ReportInput) -> list[Transfer]:
    """Every declared sequence; the mean of each method that has several; each further method of the same tasks against the first.

    Raises SuiteError where the stages were not measured alike.
    """
    arms = arms_by_name(report.models)
    methods: dict[str, list[Order]] = {}
    for declared in report.comparison.sequences:
        methods.setdefault(declared.method, []).append(measured_order(declared, arms))
    every = [order for orders in methods.values() for order in orders]
    found = [_transfer(order.name, "order", [(1.0, order)]) for order in every]
    means = {method: [(1 / len(orders), order) for order in orders] for method, orders in methods.items()}
    found += [_transfer(method, "mean", orders) for method, orders in means.items() if len(orders) > 1]
    first, *others = means or [""]
    for method in others:
        if _comparable([order for _, order in (*means[first], *means[method])]):
            minus = [(-weight, order) for weight, order in means[first]]
            found.append(_transfer(f"{method} vs {first}", "difference", [*means[method], *minus]))
    return found


def measured_order(declared: TaskSequence, arms: Mapping[str, Sequence[MeasuredModel]]) -> Order:
    """The models of one sequence with their scores side by side. A base with one seed serves every seed."""
    names = [declared.base, *declared.stages]
    for name in names:
        if name not in arms:
            raise SuiteError(f"sequence {declared.name}", f"{name} was not evaluated", f"one of {', '.join(arms)}")
    last = arms[names[-1]]
    pairs = [pair_seeds(arms[name], last) for name in names]
    tasks = tuple(declared.stages.values())
    scores, clusters = {}, {}
    for task in tasks:
        paired = [pair_task(task, stage) for stage in pairs]
        first = paired[0].first
        if first.metric == "bits_per_byte":
            what = f"task {task!r} is measured in bits per byte, a ratio of sums"
            raise SuiteError(f"sequence {declared.name}", what, "tasks with a score for each item", "leave it out")
        scores[task], clusters[task] = np.stack([stage.reference for stage in paired], axis=1), first.clusters
    seeds = tuple(model.seed for _, model in pairs[-1])
    return Order(declared.name, declared.method, declared.base, tuple(names[1:]), tasks, seeds, scores, clusters)


def _comparable(orders: Sequence[Order]) -> bool:
    """Same tasks, same seeds: orders that can be averaged or subtracted item by item."""
    return len({(frozenset(order.tasks), order.seeds) for order in orders}) == 1


def _transfer(
    name: str, kind: Literal["order", "mean", "difference"], orders: Sequence[tuple[float, Order]]
) -> Transfer:
    if not _comparable([order for _, order in orders]):
        raise SuiteError(f"sequences of {name}", "tasks or seeds differ", "orders of the same tasks at the same seeds")
    forgetting, backward, forward = (
        mean_difference(orders, differences)
        for differences in (loss_from_best, backward_differences, forward_differences)
    )
    return Transfer(name, kind, tuple(orders), forgetting, backward, forward)


def backward_differences(order: Order) -> dict[str, np.ndarray]:
    """By task, `[S, n]`: after the last stage minus after its own."""
    scores = order.scores
    return {task: scores[task][:, -1] - scores[task][:, own] for own, task in enumerate(order.tasks[:-1], 1)}


def forward_differences(order: Order) -> dict[str, np.ndarray]:
    """By task, `[S, n]`: just before its own stage minus the base."""
    scores = order.scores
    return {task: scores[task][:, before] - scores[task][:, 0] for before, task in enumerate(order.tasks[1:], 1)}


def mean_difference(
    orders: Sequence[tuple[float, Order]], differences: Callable[[Order], dict[str, np.ndarray]]
) -> Estimate:
    """Weighted sum over orders of the mean over T - 1 tasks, with the interval of a group of tasks."""
    first = orders[0][1]
    tables: dict[str, np.ndarray] = {}
    for weight, order in orders:
        for task, table in differences(order).items():
            tables[task] = tables.get(task, 0.0) + weight * table
    share = len(tables) / (len(first.tasks) - 1)  # a task may be first, or last, in some orders only
    estimate = statistics.group([share * table for table in tables.values()], [first.clusters[task] for task in tables])
    if all(np.isin(order.scores[task], (0, 1)).all() for _, order in orders for task in tables):
        estimate = statistics.widen_if_unchanged(estimate)
    return estimate


def loss_from_best(order: Order) -> dict[str, np.ndarray]:
    """By task, `[S, n]`: at its best stage minus after the last; best for each seed and half of the items by the other seeds (by the
    same, where there is but one) and the other half."""
    losses = {}
    for task in order.tasks[:-1]:
        scores = np.asarray(order.scores[task], float)
        half = _half(scores.shape[-1], order.clusters[task])
        loss = np.empty_like(scores[:, 0])
        for seed in range(len(scores)):
            others = np.delete(scores, seed, axis=0) if len(scores) > 1 else scores
            for mine in (half, ~half):
                best = int(others[:, :-1][:, :, ~mine].mean((0, 2)).argmax())
                loss[seed, mine] = scores[seed, best, mine] - scores[seed, -1, mine]
        losses[task] = loss
    return losses


def _half(count: int, clusters: Any) -> np.ndarray:
    """Every other item, or cluster of items, [n] bool."""
    if clusters is None:
        return np.arange(count) % 2 == 0
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index % 2 == 0
