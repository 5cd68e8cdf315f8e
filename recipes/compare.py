"""`align compare A B`: are two models really different? For finished stages of a store, model folders, hub names, and the logs
of lm-eval's own command line."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from alignment.core.errors import RecipeError
from alignment.core.store import Store
from eval import words
from eval.comparison import ArmComparison
from eval.config import Comparison, Role
from eval.lm_eval_logs import Imported, import_logs
from eval.results import MeasuredModel, plain
from recipes.check import check_recipe
from recipes.estimate import Estimate
from recipes.external import Externals
from recipes.live import LiveDisplay
from recipes.plan import make_plan
from recipes.report import measured_models
from recipes.runner import default_jobs, run_cells
from recipes.schema import parse_recipe
from recipes.sides import Side, find_side, with_short_names

Arm = list[MeasuredModel]


@dataclass(frozen=True)
class Measured:
    """Both arms; of imported logs also their groups of tasks, and what is to be known about them."""

    reference: Arm
    new: Arm
    groups: Mapping[str, Sequence[str]]
    notes: Sequence[str]


def compare_two(
    a: str,
    b: str,
    tasks: Sequence[str],
    limit: int | None,
    margin: float,
    root: Path,
    out: Console,
    metric: str | None = None,
    as_json: bool = False,
) -> None:
    """Print the paired comparison of `b` with the reference `a`, or write it as one JSON object."""
    from eval.terminal import print_comparison

    if limit is not None and not tasks:
        raise RecipeError("--limit", "has no effect on finished evaluations", "--limit with --tasks", "name the tasks")
    if not 0 <= margin < math.inf:
        raise RecipeError(
            "--margin", f"{margin} is no loss", "a finite number, at least 0", "for example --margin 0.05"
        )
    store = Store(root)
    reference, new = with_short_names([find_side(name, store) for name in (a, b)])
    if metric is not None and not (reference.logs or new.logs):
        raise RecipeError("--metric", "chooses among the metrics of lm-eval's logs", "folders of logs", "leave it out")
    with tempfile.TemporaryDirectory() as scratch:
        if reference.models and new.models and tasks:
            progress = Console(stderr=True) if as_json else out
            measured, named = _evaluate(reference, new, tasks, limit, store, progress), ()
        else:
            measured, named = _finished(reference, new, tasks, limit, metric, Path(scratch)), tasks
        arm = _compared(measured, named, margin)
    if as_json:
        print(json.dumps(plain(_as_json(arm)), indent=1, allow_nan=False))
    else:
        print_comparison(arm, out, _sentence(arm))


def _compared(measured: Measured, tasks: Sequence[str], margin: float) -> ArmComparison:
    """tasks: those that the user named, corrected as declared ones; none = all that both sides have."""
    from eval.compare import compare_models

    everyone = [*measured.reference, *measured.new]
    metrics = {items.metric for model in everyone for items in model.tasks.values()}
    comparison = Comparison(margin=dict.fromkeys(metrics, margin))
    wanted = list(dict.fromkeys(task for name in tasks for task in measured.groups.get(name, (name,))))
    roles: dict[str, Role] | None = {task: _role(task, everyone) for task in wanted} or None
    arm = compare_models(measured.reference, measured.new, comparison, roles)
    groups = []
    shown = {row.task for row in arm.rows}
    for name, members in measured.groups.items():
        inside = [task for task in members if task in shown]
        if 1 < len(inside) < len(shown):  # a group of all of them is there already
            together: dict[str, Role] = dict.fromkeys(inside, "target")
            part = compare_models(measured.reference, measured.new, comparison, together)
            groups += [replace(row, task=f"group:{name}") for row in part.groups]
    everything = arm.groups
    if {row.role for row in arm.rows} == {"target"}:  # nobody said what was a target: they are all the tasks there are
        everything = tuple(replace(row, task="group:tasks") for row in arm.groups)
    return replace(arm, groups=(*everything, *groups), warnings=(*measured.notes, *arm.warnings))


def _role(task: str, models: Sequence[MeasuredModel]) -> Role:
    for model in models:
        if task not in model.tasks:
            known = ", ".join(model.tasks)
            raise RecipeError(
                f"--tasks {task}", f"{model.name} was not measured on it", f"one of {known}", "correct it"
            )
    return models[0].tasks[task].about.get("role", "retained")


def _sentence(arm: ArmComparison) -> str:
    """The answer where nobody said what was to be kept or gained: is one better than the other?"""
    row = arm.headline("target")
    if row is None or {other.role for other in arm.rows} != {"target"}:
        return ""
    change = (
        f"{words.signed(row.metric, row.delta)}, {words.interval(row.metric, row.estimate.ci95)}; {words.basis(row)}"
    )
    match row.verdict.word:
        case "gained":
            return f"{arm.new} does better than {arm.reference} ({change})."
        case "lost":
            return f"{arm.new} does worse than {arm.reference} ({change})."
        case "unchanged":
            return f"{arm.new} does as well as {arm.reference} ({change})."
    return f"Whether {arm.new} does better than {arm.reference} is open ({change})."


def _as_json(arm: ArmComparison) -> dict[str, Any]:
    """Rows as in `results.json`."""
    return {
        "reference": arm.reference,
        "new": arm.new,
        "seeds": list(arm.seeds),
        "scope": arm.scope_caption,
        "comparisons": [row.as_json() for row in (*arm.rows, *arm.groups)],
        "warnings": list(arm.warnings),
    }


def _finished(a: Side, b: Side, tasks: Sequence[str], limit: int | None, metric: str | None, scratch: Path) -> Measured:
    """What is already measured, on both sides. Logs are imported into `scratch`."""
    if limit is not None:
        what = "finished measurements are compared as they are"
        raise RecipeError("--limit", what, "models on both sides", "leave it out")
    arms: list[Arm] = []
    imported: list[Imported] = []
    for number, side in enumerate((a, b)):
        folders = dict(side.evaluations)
        for seed, path in side.logs.items():
            folders[seed] = scratch / f"{number}-{seed}"
            imported.append(import_logs(path, folders[seed], metric))
        if not folders:
            what, expected = "is not evaluated yet", "finished evaluations, or tasks to evaluate on"
            raise RecipeError(side.name, what, expected, "add --tasks lab_facts,lab_add")
        arms.append(
            [
                MeasuredModel(side.name, seed, None, "", folder, {}, None, folder.name)
                for seed, folder in sorted(folders.items())
            ]
        )
    for model in (*arms[0], *arms[1]):
        _ = model.tasks  # read while `scratch` is there
    groups = {name: members for logs in imported for name, members in logs.groups.items()}
    return Measured(arms[0], arms[1], groups, [*_other_configurations(a, b), *_import_notes(imported)])


def _import_notes(imported: Sequence[Imported]) -> list[str]:
    notes = [note for logs in imported for note in logs.notes]
    contexts = sorted({logs.context for logs in imported if logs.context})
    if len(contexts) > 1:
        sizes = " and ".join(map(str, contexts))
        notes.append(
            f"the models read {sizes} tokens: longer prompts were cut for one of them, which the logs do not tell"
        )
    return list(dict.fromkeys(notes))


def _other_configurations(*sides: Side) -> list[str]:
    return [
        f"{side.name}: the newest configuration is compared; the store holds {side.others} more"
        for side in sides
        if side.others
    ]


def _evaluate(a: Side, b: Side, tasks: Sequence[str], limit: int | None, store: Store, out: Console) -> Measured:
    """Measure both sides on `tasks` through the same cells, cache and settings as a recipe's evaluation."""
    names = {
        f"{letter}{seed}": (letter, seed, model)
        for letter, side in (("a", a), ("b", b))
        for seed, model in side.models.items()
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
    arms: dict[str, Arm] = {"a": [], "b": []}
    for measured in measured_models(plan, store):
        letter, seed, _ = names[measured.stage]
        name = (a if letter == "a" else b).name
        arms[letter].append(replace(measured, stage=name, seed=seed, parent=None, method="", training={}, metrics=None))
    return Measured(arms["a"], arms["b"], {}, _other_configurations(a, b))
