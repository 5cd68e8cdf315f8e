"""The learned rewards that training relied on, each on its held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.page import Page, Section
from eval.reward_models import RewardModel

COLUMNS = {
    "gold_accuracy": "agrees with gold",
    "ceiling": "labels agree with gold",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
}


def section(page: Page) -> Section | None:
    models: Sequence[RewardModel] = page.derived.get("reward_models", ())
    if not models:
        return None
    columns = {key: title for key, title in COLUMNS.items() if any(getattr(model, key) is not None for model in models)}
    subsets = list(dict.fromkeys(name for model in models for name in model.subsets))
    return page.section("reward_models", "Reward models", models=models, columns=columns, subsets=subsets)
