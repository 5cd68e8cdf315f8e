"""`align check`: everything that can be found wrong before a model is loaded. No torch, transformers or datasets."""

from __future__ import annotations

from alignment.core.config import DataRef, StageConfig
from alignment.core.errors import RecipeError
from alignment.sft.config import Order
from alignment.tracking import require_installed
from eval.classifiable import require_classifiable
from eval.config import Evaluation
from recipes.check_frontier import check_frontier
from recipes.check_labels import check_labels
from recipes.check_rows import CheckedData, check_rows
from recipes.check_sequences import check_relearning, check_sequences
from recipes.check_tasks import check_tasks
from recipes.measuring import measuring_of
from recipes.references import references
from recipes.schema import Recipe
from recipes.stages import KINDS
from recipes.win_rates import check_models


def check_recipe(recipe: Recipe) -> list[CheckedData]:
    """Check data rows, task names and contrasts. Raises the first RecipeError or DataError."""
    checked = []
    for name, config in recipe.stages.items():
        require_installed(config.runtime.trackers, f"stages.{name}.runtime.trackers")
        for role, reference in references(config):
            if isinstance(reference, DataRef) and reference.stage is None:
                place, fields = f"stages.{name}.{role}", KINDS[config.kind].fields_of(role)
                checked.append(check_rows(reference, fields, place, _ordering_column(config, role)))
    if recipe.evaluation:
        checked += check_tasks(recipe.evaluation, recipe.comparison)
        _check_classifiers(recipe, recipe.evaluation)
        checked += _check_divergence(recipe.evaluation)
        _check_contrasts(recipe, recipe.evaluation)
        check_sequences(recipe, recipe.evaluation)
        check_relearning(recipe, recipe.evaluation)
        check_frontier(recipe, recipe.evaluation)
        checked += _check_win_rates(recipe.evaluation)
    check_labels(recipe, checked)
    return checked


def _ordering_column(config: StageConfig, role: str) -> str | None:
    """The column that the rows to train on have to hold for a curriculum."""
    order: Order | None = getattr(config, "order", None)
    return order.column if order is not None and role.startswith(("data", "replay.data")) else None


def _check_classifiers(recipe: Recipe, block: Evaluation) -> None:
    """What measures them, in the end and along their training, is for classifiers."""
    for name in [name for name, config in recipe.stages.items() if KINDS[config.kind].makes == "classifier"]:
        if name in block.models:
            require_classifiable(block, name)
        if (along := measuring_of(recipe, name)) is not None:
            require_classifiable(along, name)


def _check_divergence(block: Evaluation) -> list[CheckedData]:
    checked = []
    for kind, data in block.divergence.data().items() if block.divergence else ():
        if data.stage is None:
            everything = data.model_copy(update={"rows": None})
            checked.append(check_rows(everything, (("prompt",), ("text",)), f"evaluation.divergence.{kind}"))
    return checked


def _check_win_rates(block: Evaluation) -> list[CheckedData]:
    check_models(block)
    rows = {f"evaluation.win_rates.{number}.prompts": each.prompts for number, each in enumerate(block.win_rates)}
    return [check_rows(data, (("prompt",),), where) for where, data in rows.items() if data.stage is None]


def _check_contrasts(recipe: Recipe, block: Evaluation) -> None:
    for index, pair in enumerate(recipe.comparison.contrasts):
        if pair[0] == pair[1]:
            where = f"comparison.contrasts.{index}"
            raise RecipeError(where, f"{pair[0]!r} against itself", "two different models", "correct one of them")
        for name in pair:
            if name not in block.models:
                raise RecipeError(
                    f"comparison.contrasts.{index}", f"{name!r} is not among the evaluated models",
                    f"one of {', '.join(block.models)}", "add it to evaluation.models or correct the name",
                )  # fmt: skip
