"""`align compare A B`: are two models really different? For finished stages of the store, model folders and hub names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from alignment.core.errors import RecipeError
from alignment.core.store import Store
from eval.config import Comparison
from eval.results import MeasuredModel
from recipes.estimate import Estimate
from recipes.external import Externals
from recipes.live import LiveDisplay
from recipes.plan import EVALUATE, make_plan
from recipes.report import measured_models
from recipes.runner import default_jobs, run_cells
from recipes.schema import parse_recipe


@dataclass(frozen=True)
class Side:
    """One arm. models: its checkpoints by seed. evaluations: those that the store already holds, by seed."""

    name: str
    models: dict[int, dict[str, str]]
    evaluations: dict[int, Path]


def compare_two(
    a: str, b: str, tasks: Sequence[str], limit: int | None, margin: float, root: Path, out: Console
) -> None:
    """Print the paired comparison of `b` with the reference `a`."""
    from eval.compare import compare_models
    from eval.terminal import print_comparison

    store = Store(root)
    sides = _with_short_names([_side(name, store) for name in (a, b)])
    if tasks:
        reference, new = _evaluate(sides, tasks, limit, store, out)
    else:
        reference, new = (_finished(side) for side in sides)
    metrics = Comparison().margin
    comparison = Comparison(margin=dict.fromkeys(metrics, margin))
    print_comparison(compare_models(reference, new, comparison), out)


def _side(name: str, store: Store) -> Side:
    """What `name` means: hub:NAME, a model folder, or RECIPE/STAGE of the store (each seed's newest result)."""
    if name.startswith("hub:"):
        return Side(name, {0: {"hub": name.removeprefix("hub:")}}, {})
    if (Path(name) / "config.json").is_file():
        return Side(name, {0: {"path": name}}, {})
    models: dict[int, dict[str, str]] = {}
    evaluations: dict[int, Path] = {}
    known = set()
    for folder, manifest in sorted(store.manifests(), key=lambda pair: pair[1]["provenance"]["started"]):
        stage = f"{manifest['recipe']}/{manifest['stage'].removeprefix(EVALUATE)}"
        known.add(stage)
        if stage == name:
            seed = int(match[1]) if (match := re.search(r"-seed(\d+)$", manifest["label"])) else 0
            if manifest["kind"] == "evaluation":
                evaluations[seed] = folder
            elif manifest["kind"] == "model":
                models[seed] = {"path": str(folder)}
    if not models and not evaluations:
        remedy = f"the store has: {', '.join(sorted(known))}" if known else f"the store {store.root} is empty"
        raise RecipeError(
            name,
            "neither a model folder nor a finished stage",
            "RECIPE/STAGE, a folder with config.json, or hub:NAME",
            remedy,
        )
    return Side(name, models, evaluations)


def _with_short_names(sides: Sequence[Side]) -> list[Side]:
    """The last part of each name, as long as that tells them apart."""
    short = [Path(side.name.removeprefix("hub:")).name for side in sides]
    return (
        [replace(side, name=name) for side, name in zip(sides, short, strict=True)]
        if len(set(short)) == 2
        else list(sides)
    )


def _finished(side: Side) -> list[MeasuredModel]:
    if not side.evaluations:
        raise RecipeError(
            side.name,
            "is not evaluated yet",
            "finished evaluations, or tasks to evaluate on",
            "add --tasks lab_facts,lab_add",
        )
    return [
        MeasuredModel(side.name, seed, None, "", folder, {}, None, folder.name)
        for seed, folder in sorted(side.evaluations.items())
    ]


def _evaluate(
    sides: Sequence[Side], tasks: Sequence[str], limit: int | None, store: Store, out: Console
) -> tuple[list[MeasuredModel], list[MeasuredModel]]:
    """Measure both sides on `tasks` through the same cells, cache and settings as a recipe's evaluation."""
    names = {
        f"{'ab'[i]}{seed}": (i, seed, model) for i, side in enumerate(sides) for seed, model in side.models.items()
    }
    raw = {
        "name": "compare",
        "stages": {name: {"kind": "pretrained", "model": model} for name, (_, _, model) in names.items()},
        "evaluation": {"models": list(names), "retained": list(tasks), "limit": limit},
    }
    recipe = parse_recipe(raw, "align compare")
    plan = make_plan(recipe, Externals(store.root / ".digests.json"))
    jobs = default_jobs()
    with LiveDisplay(out, Estimate(store, plan.cells, jobs, None), len(plan.cells)) as display:
        outcome = run_cells(plan.cells, store, recipe.name, display, jobs)
    for error in outcome.errors.values():
        raise error
    arms: tuple[list[MeasuredModel], list[MeasuredModel]] = ([], [])
    for measured in measured_models(plan, store):
        side, seed, _ = names[measured.stage]
        arms[side].append(
            MeasuredModel(sides[side].name, seed, None, "", measured.evaluation, {}, None, measured.weights_digest)
        )
    return arms
