"""Which models a recipe measures against which references: `evaluation: divergence:`."""

from __future__ import annotations

from alignment.core.config import ModelRef
from alignment.core.errors import RecipeError
from eval.config import DivergenceConfig, DivergenceReference
from recipes.schema import Recipe


def divergence_of(recipe: Recipe, name: str) -> DivergenceConfig | None:
    """What the model of stage `name` is measured against; None for nothing.

    Not itself, and no model that started from it: that pair is measured from the other side, and a base that all seeds share would
    be measured anew for each of them. Raises RecipeError for a reference that is no stage.
    """
    asked = recipe.evaluation.divergence if recipe.evaluation else None
    if asked is None:
        return None
    for reference in asked.references:
        if reference not in recipe.stages:
            raise RecipeError(
                "evaluation.divergence.references",
                f"there is no stage {reference!r}",
                f"some of {', '.join(recipe.stages)}",
                "correct the name or add the stage",
            )
    chosen = [other for other in asked.references if name != other and name not in _ancestors(recipe, other)]
    if not chosen:
        return None
    references = [DivergenceReference(model=ModelRef.model_validate({"stage": other})) for other in chosen]
    return DivergenceConfig(references=references, **asked.model_dump(exclude={"references"}))


def _ancestors(recipe: Recipe, name: str) -> list[str]:
    """The stages that the model of stage `name` started from, nearest first."""
    found: list[str] = []
    while (source := getattr(recipe.stages.get(name), "model", None)) is not None:
        name = source.stage
        if name is None or name in found:  # from outside, or a circle, which the plan refuses
            break
        found.append(name)
    return found
