"""Stages that need something from a higher floor get it here: PPO declares a scorer, `reward` has one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.gold import gold_scorer
from alignment.group.config import GRPOConfig, RLOOConfig
from alignment.ppo.config import PPOConfig
from eval.config import EvaluateConfig
from eval.win_config import WinRateConfig
from reward.config import BestOfNConfig


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


def run_group(config: GRPOConfig | RLOOConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """GRPO or RLOO against the reward model of `config.reward`; gold is only logged."""
    from alignment.group import stage
    from reward.scorer import RewardScorer

    require_same_tokens(inputs["model"].path, inputs["reward"].path)
    scorer = RewardScorer(inputs["reward"].path, config.precision)
    return stage.run(config, inputs, context, scorer, gold_scorer(config.gold) if config.gold else None)


def run_best_of_n(config: BestOfNConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """Best of n, once it is sure that the reward model reads the ids that the model writes."""
    from reward import best_of_n

    if "reward" in inputs:
        require_same_tokens(inputs["model"].path, inputs["reward"].path)
    return best_of_n.run(config, inputs, context)


def run_win_rate(config: WinRateConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """Whose answers are better, by the judge of `config`; a reward model must read the ids that both models write."""
    from eval import win_rate
    from reward.scorer import RewardScorer

    judge = inputs.get("judge.reward")
    if judge is None:
        return win_rate.run(config, inputs, context)
    for role in ("reference", "model"):
        require_same_tokens(inputs[role].path, judge.path, "judge.reward")
    return win_rate.run(config, inputs, context, partial(RewardScorer, judge.path))


def measure(
    config: EvaluateConfig, inputs: Mapping[str, Artifact], context: Context, model: Path, folder: Path
) -> dict[str, Any]:
    """`alignment.core.context.Measure` for the training that `inputs` and `context` belong to: the stage `evaluate` on a copy of
    its model. Returns the entries of `evaluation.json`."""
    from eval import stage

    own = {
        role.removeprefix("evaluate."): artifact for role, artifact in inputs.items() if role.startswith("evaluate.")
    }
    own["model"] = Artifact("model", "", model)
    stage.run(config, own, replace(context, workdir=folder, seed=0, measure=None))
    return json.loads((folder / "evaluation.json").read_text())["tasks"]


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
