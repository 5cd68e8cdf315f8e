"""The cells of `evaluation: win_rates:`: what the plan calls them, and which are finished."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from alignment.core.config import ModelRef, StageConfig
from alignment.core.errors import RecipeError
from alignment.core.store import Store
from eval.config import Evaluation
from eval.win_config import WinRate, WinRateConfig

if TYPE_CHECKING:
    from eval.win_summary import JudgedCell
    from recipes.plan import Plan

WIN_RATE = "win_rate:"


def win_rate_stages(block: Evaluation | None) -> dict[str, StageConfig]:
    """One stage for each declared win rate. The sampling seeds are the same at all seeds, as for `evaluate`."""
    return {
        stage_name(number, each): WinRateConfig(
            seed=0,
            reference=ModelRef.model_validate({"stage": each.models[0]}),
            model=ModelRef.model_validate({"stage": each.models[1]}),
            **each.model_dump(exclude={"models"}),
        )
        for number, each in enumerate(block.win_rates if block else [])
    }


def stage_name(number: int, declared: WinRate) -> str:
    return f"{WIN_RATE}{number}:{declared.models[0]}-{declared.models[1]}"


def place_of(stage: str) -> str:
    """Where the recipe declares the win rate of that stage."""
    return f"evaluation.win_rates.{stage.split(':')[1]}"


def check_models(block: Evaluation) -> None:
    """Win rates are between evaluated models, so that tables and figures can set them beside what was forgotten."""
    for number, each in enumerate(block.win_rates):
        for name in each.models:
            if name not in block.models:
                where, what = f"evaluation.win_rates.{number}.models", f"{name!r} is not among the evaluated models"
                raise RecipeError(where, what, f"two of {', '.join(block.models)}", "add it to evaluation.models")


def judged_cells(plan: Plan, store: Store, left_out: Collection[str]) -> tuple[list[list[JudgedCell]], list[str]]:
    """The cells of every win rate that is finished at all seeds, and the names of the others. left_out: models that the report
    does without."""
    from eval.win_summary import JudgedCell

    finished, unfinished = [], []
    for number, each in enumerate(plan.recipe.evaluation.win_rates if plan.recipe.evaluation else []):
        cells = {plan.by_stage[stage_name(number, each), seed].digest: seed for seed in plan.recipe.seeds[::-1]}
        found = {seed: made for digest, seed in cells.items() if (made := store.find(digest))}
        if len(found) < len(cells) or set(each.models) & set(left_out):
            unfinished.append(" against ".join(each.models[::-1]))
            continue
        finished.append([JudgedCell(*each.models, seed, found[seed].path) for seed in sorted(found)])
    return finished, unfinished
