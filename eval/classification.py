"""Beside accuracy on tasks of labels: macro F1, precision and recall of every class, and the table of confusions.

Computed from `items.parquet` alone, for a classifier and for a language model that answers in words alike. Descriptive: intervals,
but no verdicts, and no part in the correction for many tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from alignment.classify.figures import classification, macro_f1
from eval.bootstrap import resampled_means, seed_draws
from eval.compare import arms_by_name, compared_pairs
from eval.pairing import PairedTask, pair_seeds, pair_task
from eval.results import MeasuredModel, ReportInput, TaskItems
from eval.statistics import Interval

_REPLICATES = 2000


@dataclass(frozen=True)
class Classification:
    """One arm on one task, over all seeds together. classes: by label its precision, recall, f1 and rows. confusion: counts, the
    row is the right label, the column the given one. per_seed: macro F1."""

    stage: str
    task: str
    accuracy: float
    macro_f1: float
    per_seed: tuple[tuple[int, float], ...]
    classes: dict[str, dict[str, float]]
    confusion: list[list[int]]

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        return asdict(self)


@dataclass(frozen=True)
class F1Change:
    """`new` minus `reference` in macro F1, the same items on both sides. ci: a bootstrap over seeds and items, which is too narrow
    with few seeds."""

    reference: str
    new: str
    task: str
    delta: float
    ci: Interval
    n: int
    n_seeds: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def classifications(report: ReportInput) -> list[Classification]:
    """All arms on all tasks of labels."""
    return [
        _of_arm(stage, task, models)
        for task in report.roles
        for stage, models in arms_by_name(report.models).items()
        if models[0].tasks[task].about.get("labels")
    ]


def f1_changes(report: ReportInput) -> list[F1Change]:
    """The changes of every comparison that the report makes."""
    arms = arms_by_name(report.models)
    return [
        _change(reference, new, pair_task(task, pair_seeds(arms[reference], arms[new])))
        for reference, new in compared_pairs(report)
        for task in report.roles
        if arms[new][0].tasks[task].about.get("labels")
    ]


def _of_arm(stage: str, task: str, models: Sequence[MeasuredModel]) -> Classification:
    labels = models[0].tasks[task].about["labels"]
    tables = [_cells(model.tasks[task]).sum(0).reshape(len(labels), -1) for model in models]
    per_seed = tuple((model.seed, float(macro_f1(table))) for model, table in zip(models, tables, strict=True))
    return Classification(stage, task, per_seed=per_seed, **classification(np.sum(tables, axis=0), labels))


def _change(reference: str, new: str, paired: PairedTask) -> F1Change:
    """F1 is no mean of items, but the table of confusions is: it is that which is resampled."""
    sides = [np.stack([_cells(pair[side]).T for pair in paired.items]) for side in (0, 1)]
    cells = np.concatenate(sides, axis=1).astype(float)  # [S, 2 K K, n]
    rng = np.random.default_rng(0)
    weights = seed_draws(len(cells), _REPLICATES, rng)
    drawn = resampled_means(cells, weights, rng, paired.first.clusters)
    change = _difference(drawn)
    low, high = np.quantile(change, [0.025, 0.975])
    value = float(_difference(cells.mean((0, 2))[None])[0])
    return F1Change(reference, new, paired.first.task, value, (float(low), float(high)), cells.shape[2], len(cells))


def _difference(cells: np.ndarray) -> np.ndarray:
    """[R, 2 K K], both sides' tables of confusions -> [R], new minus reference in macro F1."""
    size = round((cells.shape[1] / 2) ** 0.5)
    before, after = macro_f1(cells.reshape(-1, 2, size, size)).T
    return after - before


def _cells(items: TaskItems) -> np.ndarray:
    """[n, K K]: each item's place in the table of confusions."""
    size = len(items.about["labels"])
    given = [int(np.argmax(lls)) for lls in items.rows["choice_lls"].to_pylist()]
    places = [gold * size + label for gold, label in zip(items.rows["gold_choice"].to_pylist(), given, strict=True)]
    return np.eye(size * size, dtype=int)[places]
