"""How a stage's model is measured while it is trained: `evaluate: {every: 50}`, in the words of the recipe's `evaluation:`."""

from __future__ import annotations

from typing import Any

from alignment.core.config import DuringTraining
from alignment.core.errors import RecipeError
from eval.config import ROLES, EvaluateConfig
from eval.task_config import base_name
from recipes.schema import Recipe


def measuring_of(recipe: Recipe, name: str) -> EvaluateConfig | None:
    """What the stage `evaluate` is to do with copies of that stage's model; None for a stage that is not watched.

    Raises RecipeError for tasks that the recipe does not have, and where no measurement would ever be due.
    """
    config = recipe.stages.get(name)
    wanted: DuringTraining | None = getattr(config, "evaluate", None)
    if wanted is None:
        return None
    where, block = f"stages.{name}.evaluate", recipe.evaluation
    if block is None:
        raise RecipeError(where, "the recipe has no tasks", "a block `evaluation:` with tasks", "add it")
    steps = getattr(config, "steps", None)
    if steps is not None and wanted.first >= steps and wanted.best is None:
        what = f"step {wanted.first} is not before the last, {steps}: nothing would be measured along the way"
        raise RecipeError(where, what, f"a step below {steps}", "measure earlier, or drop `evaluate`")
    roles: dict[str, list[str]] = {role: getattr(block, role) for role in ROLES}
    everything = [task for tasks in roles.values() for task in tasks]
    chosen = wanted.chosen(roles)
    _require_known(f"{where}.tasks", chosen, [*roles, *everything])
    _require_known(f"{where}.best", {wanted.best} if wanted.best else set(), [*roles, *chosen])
    kept = {role: [task for task in tasks if task in chosen] for role, tasks in roles.items()}
    settings: dict[str, Any] = block.model_dump(include=set(EvaluateConfig.model_fields) - {"divergence"}) | {
        "tasks": {task: own for task, own in block.tasks.items() if task in map(base_name, chosen)},
        "limit": wanted.limit or block.limit,
    }
    return EvaluateConfig.model_validate(settings | kept | {"seed": 0, "model": {"stage": name}})


def _require_known(where: str, names: set[str], known: list[str]) -> None:
    unknown = names - set(known)
    if unknown:
        raise RecipeError(where, f"no task {min(unknown)!r} is measured", f"some of {', '.join(known)}", "correct it")
