"""Stages that need something from a higher floor get it here: PPO declares a scorer, `reward` has one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.gold import gold_scorer
from alignment.ppo.config import PPOConfig


def run_ppo(config: PPOConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """PPO against the reward model of `config.reward`; the gold scorer and the second reward model, if named, are only logged."""
    from alignment.ppo import stage
    from reward.scorer import RewardScorer

    scorers = {}
    for role in ("reward", "second_reward"):
        if role in inputs:
            require_same_tokens(inputs["model"].path, inputs[role].path, role)
            scorers[role] = RewardScorer(inputs[role].path, config.engine_precision)
    return stage.run(
        config,
        inputs,
        context,
        scorer=scorers["reward"],
        gold=gold_scorer(config.gold) if config.gold else None,
        second_scorer=scorers.get("second_reward"),
    )


def require_same_tokens(policy: Path, reward: Path, role: str = "reward") -> None:
    """The scorer reads the ids that the policy wrote. Raises ModelError where one of them stands for another token."""
    from alignment.models.load import load_tokenizer

    ours, theirs = (load_tokenizer(path).get_vocab() for path in (policy, reward))
    differing = len(ours.items() - theirs.items())  # a reward model may have one token more, to pad with
    if differing:
        raise ModelError(
            role,
            f"its tokenizer is not the policy's: {differing} tokens have another id or none",
            "a reward model that reads the policy's own token ids",
            "train the reward model from the policy's base model",
        )
