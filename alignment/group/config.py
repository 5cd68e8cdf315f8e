"""GRPO and RLOO: policy gradients whose baseline is the other answers to the same prompt. What a recipe can say. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignment.core.config import Config, DataRef, ModelRef
from alignment.gold import GoldName
from alignment.models.config import TuningConfig


class GroupRollout(Config):
    """batch_size: answers of one step, `group_size` to each prompt. engine: as in PPO; weights are sent before every rollout."""

    engine: Literal["auto", "vllm", "hf"] = "auto"
    batch_size: int = Field(default=64, gt=0)
    group_size: int = Field(default=8, gt=1)
    max_new_tokens: int = Field(default=48, gt=0)
    temperature: float = Field(default=1.0, gt=0)


class GroupConfig(TuningConfig):
    """steps: rollout batches; each is met `epochs` times, `minibatch_size` answers in an optimiser step. beta: weight of the KL to the
    model as it began. clip: the policy ratio's distance from 1. missing_eos: the score of an answer that the length limit cut;
    None = what the reward model says. gold: logged, never trained on. `gradient_accumulation` and `batch_size` of other trainings are
    said here by minibatch_size and rollout."""

    reward: ModelRef
    prompts: DataRef
    rollout: GroupRollout = GroupRollout()
    steps: int = Field(60, gt=0)
    epochs: int = Field(1, gt=0)
    minibatch_size: int = Field(32, gt=0)
    learning_rate: float = Field(1e-6, gt=0)
    beta: float = Field(0.04, ge=0)
    clip: float = Field(0.2, gt=0)
    missing_eos: float | None = -1.0
    gold: GoldName | None = None
    checkpoint_every: int = Field(20, gt=0, description="rollout batches between checkpoints")

    @property
    def updates(self) -> int:
        """Optimiser steps of one rollout batch."""
        return self.rollout.batch_size // self.minibatch_size * self.epochs

    @model_validator(mode="after")
    def _consistent(self) -> GroupConfig:
        batch, size, group = self.rollout.batch_size, self.minibatch_size, self.rollout.group_size
        if batch % size:
            raise ValueError(f"minibatch_size: {size} does not divide rollout.batch_size {batch}")
        if batch % group or size % group:
            raise ValueError(
                f"rollout.group_size: {group} has to divide rollout.batch_size {batch} and minibatch_size {size}"
            )
        if self.peft is not None and self.peft.method not in ("lora", "rslora"):
            raise ValueError(f"peft.method: engines get merged weights of lora or rslora, not of {self.peft.method}")
        idle = [name for name in ("batch_size", "gradient_accumulation") if name in self.model_fields_set]
        if idle:
            raise ValueError(f"{idle[0]}: has no effect here; use rollout.batch_size and minibatch_size")
        return self


class GRPOConfig(GroupConfig):
    """Group-relative policy optimisation (Shao et al. 2024): advantage = (score - mean of the group) / its deviation.
    scale: what the deviation is taken over; none = no division (Liu et al. 2025, "Dr. GRPO")."""

    kind: Literal["grpo"] = "grpo"
    scale: Literal["group", "batch", "none"] = "group"
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"


class RLOOConfig(GroupConfig):
    """REINFORCE leave-one-out (Ahmadian et al. 2024): advantage = score - mean of the other answers, the KL in the reward."""

    kind: Literal["rloo"] = "rloo"
    normalise_advantages: bool = False
