"""Can the frontier that a recipe declares be drawn from what it measures?"""

from __future__ import annotations

from alignment.core.config import DuringTraining
from alignment.core.errors import RecipeError
from eval.config import Evaluation
from recipes.check_sequences import require_chain
from recipes.schema import Recipe


def check_frontier(recipe: Recipe, block: Evaluation) -> None:
    """Stages are evaluated, and measured along their training on the very tasks that make the two axes. Raises RecipeError."""
    declared = recipe.comparison.frontier
    if declared is None:
        return
    where = "comparison.frontier"
    for role in ("target", "retained"):
        if not getattr(block, role):
            raise RecipeError(
                where, f"the recipe has no {role} tasks", "tasks for both axes", f"name some under {role}"
            )
    ways = [way for of in declared.paths().values() for way in of]
    stages = [stage for way in ways for stage in way]
    for stage in dict.fromkeys([declared.base, *stages]):
        if stage not in block.models:
            known = ", ".join(block.models)
            raise RecipeError(
                where, f"{stage!r} is not among the evaluated models", f"some of {known}", "add it to evaluation.models"
            )
        along: DuringTraining | None = getattr(recipe.stages.get(stage), "evaluate", None)
        if along is not None and stage in stages:
            _check_along(f"stages.{stage}.evaluate", along, block)
    for way in ways:
        require_chain(declared.base, way, recipe, f"{where}.arms")


def _check_along(where: str, along: DuringTraining, block: Evaluation) -> None:
    if along.best is not None:
        what = "the finished model is then one from the way, so its path has no end of its own"
        raise RecipeError(f"{where}.best", what, "none for a stage of comparison.frontier", "leave it out")
    roles = {"target": block.target, "retained": block.retained}
    missing = [task for tasks in roles.values() for task in tasks if task not in along.chosen(roles)]
    if missing:
        what = (
            f"{missing[0]!r} is not measured along the way, and comparison.frontier needs all target and retained tasks"
        )
        raise RecipeError(f"{where}.tasks", what, "all of them", "leave `tasks` out")
    if along.limit is not None and along.limit != block.limit:
        what = f"{along.limit} items along the way, others in the end: comparison.frontier pairs them"
        raise RecipeError(f"{where}.limit", what, f"evaluation.limit ({block.limit})", "leave it out")
