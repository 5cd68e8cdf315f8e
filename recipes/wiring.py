"""Stages that need something from a higher floor get it here: PPO declares a scorer, `reward` has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.gold import gold_scorer
from alignment.ppo.config import PPOConfig


def run_ppo(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """PPO against the reward model of `config.reward`; the gold scorer, if named, is only logged."""
    from alignment.ppo import stage
    from reward.scorer import RewardScorer

    scorer = RewardScorer(inputs["reward"].path, config.precision)
    return stage.run(config, inputs, context, scorer=scorer, gold=gold_scorer(config.gold) if config.gold else None)
