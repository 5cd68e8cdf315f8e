"""Made-up learners of several tasks in a row. `report_of` takes scores item by item, `learner` draws them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from synthetic_report import tiny

from eval.config import Comparison
from eval.results import ReportInput

SKILLS = ("a", "b", "c")
ORDERS = ("abc", "bca", "cab")


def report_of(folder: Path, cells: Mapping[tuple[str, int], Mapping[str, str]]) -> ReportInput:
    """cells: {(stage, seed): {task: a digit for each item}}; declares the sequence base, one, two over the first two tasks."""
    parents = {"base": None, "one": "base", "two": "one"}
    models = [
        tiny(
            folder,
            stage,
            {task: [int(digit) for digit in digits] for task, digits in scores.items()},
            seed,
            parents[stage],
        )
        for (stage, seed), scores in cells.items()
    ]
    tasks = list(next(iter(cells.values())))
    stages = dict(zip(("one", "two"), tasks, strict=True))
    declared = {"name": "-".join(tasks), "base": "base", "stages": stages}
    return report(models, tasks, Comparison(sequences=[declared]))


def learner(
    folder: Path, seeds: tuple[int, ...], items: int, methods: Mapping[str, float] | None = None
) -> ReportInput:
    """Three tasks in three orders: each stage brings its own task to .95 and takes a share of the others away.

    methods: {name: the share that each later stage takes}; without, one method that takes a half.
    """
    models = [tiny(folder, "base", {task: [0] * items for task in SKILLS})]
    sequences = []
    for number, (method, lost) in enumerate((methods or {"all orders": 0.5}).items()):
        for order in ORDERS:
            names = [f"{method}-{order[: count + 1]}" for count in range(3)]
            for seed in seeds:
                models += _run(folder, names, order, seed, items, lost, np.random.default_rng([number, seed, items]))
            name = order if methods is None else f"{method} {order}"
            sequences.append(
                {"name": name, "method": method, "base": "base", "stages": dict(zip(names, order, strict=True))}
            )
    unique = {(model.stage, model.seed): model for model in models}
    return report(list(unique.values()), list(SKILLS), Comparison(sequences=sequences))


def _run(folder, names, order, seed, items, lost, rng):
    """Items differ in how easily they are lost, seeds in how much they lose."""
    shared = np.random.default_rng(items)
    fragile = {task: shared.normal(0, 0.15, items) for task in SKILLS}
    own = rng.normal(0, 0.05)
    known = {task: np.zeros(items) for task in SKILLS}
    models = []
    for name, taught in zip(names, order, strict=True):
        for task in SKILLS:
            if task == taught:
                known[task] = (rng.random(items) < 0.95).astype(float)
            else:
                known[task] = known[task] * (rng.random(items) >= lost + own + fragile[task])
        models.append(tiny(folder, name, {task: list(scores) for task, scores in known.items()}, seed))
    return models


def report(models, tasks, comparison) -> ReportInput:
    return ReportInput(
        recipe="test/sequence",
        question="What does each task cost the others?",
        recipe_text="name: test/sequence\n",
        recipe_digest="0" * 64,
        code_commit="0" * 16,
        versions={},
        hardware="2 CPU cores",
        models=models,
        target=tasks,
        retained=[],
        comparison=comparison,
    )
