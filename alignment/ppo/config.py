"""What a recipe says about PPO. No torch here.

Defaults follow Huang et al. 2024, "The N+ implementation details of RLHF with PPO", where they name one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alignment.core.config import Config, DataRef, ModelRef, Precision, StageConfig
from alignment.generation.engine import EngineName
from alignment.gold import GoldName


class RolloutConfig(Config):
    """Sampling is from the full distribution: the trainer could not reproduce log-probabilities filtered by top-p or top-k."""

    engine: EngineName = "auto"
    batch_size: int = Field(default=64, gt=0, description="prompts per step, one answer each")
    max_new_tokens: int = Field(default=48, gt=0)
    temperature: float = Field(default=1.0, gt=0)


class CriticConfig(Config):
    """init: weights that the critic starts from. The reward model already knows what a good answer is; the policy needs a
    fresh head."""

    init: Literal["reward", "policy"] = "reward"
    learning_rate: float = Field(default=3e-6, gt=0)


class KlConfig(Config):
    """Penalty -coefficient * kl_t on every response token, kl_t = log p - log p_reference (the estimator k1).

    target: sequence KL, in nats, that an adaptive coefficient steers to (Ziegler et al. 2019); None = fixed coefficient.
    horizon: sequences over which the adaptive coefficient moves.
    """

    coefficient: float = Field(default=0.05, ge=0)
    target: float | None = Field(default=None, gt=0)
    horizon: int = Field(default=10_000, gt=0)
    estimator: str = "k1"

    @field_validator("estimator")
    @classmethod
    def _only_k1(cls, estimator: str) -> str:
        if estimator != "k1":
            raise ValueError(
                f"{estimator!r} inside the reward has almost none of the KL's gradient and lets the policy collapse; only k1 is "
                "right there. k3 is logged as rollout/kl_k3 in any case"
            )
        return estimator


class GaeConfig(Config):
    gamma: float = Field(default=1.0, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)


class ClipConfig(Config):
    """ratio: the policy ratio's distance from 1. value: the distance of a new value from the rollout's; None = off.
    dual: bound, > 1, on the ratio where the advantage is negative (Ye et al. 2020); None = off."""

    ratio: float = Field(default=0.2, gt=0)
    value: float | None = Field(default=0.2, gt=0)
    dual: float | None = Field(default=None, gt=1)


class MissingEosConfig(Config):
    """What an answer cut by the length limit gets: its score replaced by `value` (N+), or `value` subtracted from it (trl)."""

    mode: Literal["replace", "subtract"] = "replace"
    value: float = -1.0


class ImportanceConfig(Config):
    """Truncated importance sampling: weights min(p_trainer / p_sampler, cap) make up for what sampler and trainer disagree on,
    per token or for the whole sequence (Yao et al. 2025)."""

    cap: float = Field(default=2.0, ge=1)
    level: Literal["token", "sequence"] = "token"


class PPOConfig(StageConfig):
    """Proximal policy optimisation (Schulman et al. 2017) on a reward model's scores, against a KL penalty.

    model: the policy to start from, and the reference of the KL. reward: the reward model whose scores are maximised.

    learning_rate falls linearly to 0 over `steps`. minibatch_size: sequences per optimiser step; `epochs` passes over each
    rollout batch. tokens_per_pass: the most tokens one forward pass holds; larger minibatches are accumulated.
    checkpoint_every: steps between checkpoints; None = none.
    gold: name of a gold scorer whose mean is logged beside the reward, never trained on, so that over-optimisation of
    the reward model shows; None = off.
    sync_tolerance: mean |difference| of log-probabilities between engine and trainer, after an update, that stops the run;
    None = 1e-3 in fp32 and 0.1 in bf16.
    """

    kind: Literal["ppo"] = "ppo"
    model: ModelRef
    reward: ModelRef
    prompts: DataRef
    rollout: RolloutConfig = RolloutConfig()
    critic: CriticConfig = CriticConfig()
    kl: KlConfig = KlConfig()
    gae: GaeConfig = GaeConfig()
    clip: ClipConfig = ClipConfig()
    missing_eos: MissingEosConfig | None = MissingEosConfig()
    importance: ImportanceConfig | None = ImportanceConfig()
    steps: int = Field(default=60, gt=0)
    epochs: int = Field(default=2, gt=0)
    minibatch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=3e-6, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    precision: Precision = "fp32"
    tokens_per_pass: int = Field(default=16_384, gt=0)
    checkpoint_every: int | None = Field(default=20, gt=0)
    gold: GoldName | None = None
    sync_tolerance: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _whole_minibatches(self) -> PPOConfig:
        batch, size = self.rollout.batch_size, self.minibatch_size
        if batch % size:
            fitting = [str(n) for n in range(1, batch + 1) if batch % n == 0]
            raise ValueError(
                f"minibatch_size: {size} does not divide rollout.batch_size {batch}; use {', '.join(fitting)}"
            )
        return self
