"""`align compare A B`: are two models really different? For finished stages of the store, model folders and hub names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from alignment.core.artifact import digest_of
from alignment.core.errors import RecipeError
from alignment.core.store import Store
from eval.config import Comparison
from eval.results import MeasuredModel
from recipes.check import check_recipe
from recipes.estimate import Estimate
from recipes.external import Externals
from recipes.live import LiveDisplay
from recipes.plan import EVALUATE, make_plan
from recipes.report import measured_models
from recipes.runner import default_jobs, run_cells
from recipes.schema import parse_recipe

Found = tuple[Path, dict[str, Any]]  # a finished cell: folder and manifest


@dataclass(frozen=True)
class Side:
    """One arm. models: its checkpoints by seed. evaluations: those that the store already holds, by seed.
    others: how many other configurations of the stage the store holds."""

    name: str
    models: dict[int, dict[str, str]]
    evaluations: dict[int, Path]
    others: int = 0


def compare_two(
    a: str, b: str, tasks: Sequence[str], limit: int | None, margin: float, root: Path, out: Console
) -> None:
    """Print the paired comparison of `b` with the reference `a`."""
    from eval.compare import compare_models
    from eval.terminal import print_comparison

    if limit is not None and not tasks:
        raise RecipeError("--limit", "has no effect on finished evaluations", "--limit with --tasks", "name the tasks")
    if not 0 <= margin < math.inf:
        raise RecipeError(
            "--margin", f"{margin} is no loss", "a finite number, at least 0", "for example --margin 0.05"
        )
    store = Store(root)
    sides = _with_short_names([_side(name, store) for name in (a, b)])
    for side in sides:
        if side.others:
            out.print(f"{side.name}: the newest configuration is compared; the store holds {side.others} more")
    if tasks:
        reference, new = _evaluate(sides, tasks, limit, store, out)
    else:
        reference, new = (_finished(side) for side in sides)
    metrics = {items.metric for model in (*reference, *new) for items in model.tasks.values()}
    comparison = Comparison(margin=dict.fromkeys(metrics, margin))
    print_comparison(compare_models(reference, new, comparison), out)


def _side(name: str, store: Store) -> Side:
    """What `name` means: hub:NAME, a model folder, or RECIPE/STAGE of the store: its newest configuration, at every seed."""
    if name.startswith("hub:"):
        return Side(name, {0: {"hub": name.removeprefix("hub:")}}, {})
    if (Path(name) / "config.json").is_file() and any(Path(name).glob("*.safetensors")):
        return Side(name, {0: {"path": name}}, {})
    cells = sorted(store.manifests(), key=lambda cell: cell[1]["provenance"]["started"])
    made = {manifest["digest"]: manifest for _, manifest in cells}
    named = [cell for cell in cells if _stage(cell[1]) == name]
    models, others = _newest([cell for cell in named if cell[1]["kind"] == "model"], made)
    digests = {manifest["digest"] for _, manifest in models}
    measured = [cell for cell in named if cell[1]["kind"] == "evaluation"]
    if models:  # a pretrained stage has none
        measured = [cell for cell in measured if cell[1]["inputs"]["model"] in digests]
    evaluations, more = _newest(measured, made)
    if not models and not evaluations:
        known = {_stage(manifest) for _, manifest in cells}
        remedy = f"the store has: {', '.join(sorted(known))}" if known else f"the store {store.root} is empty"
        raise RecipeError(
            name,
            "neither a model folder nor a finished stage",
            "RECIPE/STAGE, a folder with config.json and safetensors, or hub:NAME",
            remedy,
        )
    return Side(
        name,
        {_seed(manifest): {"path": str(folder)} for folder, manifest in models},
        {_seed(manifest): folder for folder, manifest in evaluations},
        others or more,
    )


def _stage(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['recipe']}/{manifest['stage'].removeprefix(EVALUATE)}"


def _seed(manifest: Mapping[str, Any]) -> int:
    return int(match[1]) if (match := re.search(r"-seed(\d+)$", manifest["label"])) else 0


def _newest(cells: Sequence[Found], made: Mapping[str, Mapping[str, Any]]) -> tuple[list[Found], int]:
    """Of cells in order of their start, those made in the same way as the last, and how many other ways there are. Seeds of two
    configurations together would be no method's result."""
    ways = [_way(manifest["identity"], made) for _, manifest in cells]
    return [cell for cell, way in zip(cells, ways, strict=True) if way == ways[-1]], max(0, len(set(ways)) - 1)


def _way(identity: Mapping[str, Any], made: Mapping[str, Mapping[str, Any]]) -> str:
    """Digest of how a cell is made whatever the seed, its inputs included."""

    def seedless(value: Any) -> Any:
        if isinstance(value, list):
            return [seedless(child) for child in value]
        if not isinstance(value, dict):
            return value
        source = made.get(value["stage"]) if isinstance(value.get("stage"), str) else None
        return {key: seedless(child) for key, child in value.items()} | (
            {"stage": _way(source["identity"], made)} if source else {}
        )

    return digest_of({key: seedless(value) for key, value in identity.items() if key != "seed"})


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
    check_recipe(recipe)
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
