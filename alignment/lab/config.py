"""Configuration of the lab's pre-training. The defaults are the vetted base of the lab's recipes."""

from __future__ import annotations

from operator import not_
from typing import Literal

from pydantic import Field, field_validator, model_validator

from alignment.core.config import StageConfig
from alignment.lab.skills import SKILLS

HEAD_SIZE = 64  # vLLM on CPU needs 32 or more


class PretrainConfig(StageConfig):
    """One small Llama, trained from scratch on the lab's corpus."""

    kind: Literal["pretrain"] = "pretrain"
    hidden_size: int = Field(256, gt=0, description=f"a multiple of the head size {HEAD_SIZE}")
    layers: int = Field(2, gt=0)
    steps: int = Field(1200, gt=0)
    batch_tokens: int = Field(1024, gt=0, description="tokens of a step, padding included: rows of 64 (see packing.py)")
    learning_rate: float = Field(1.5e-3, gt=0, description="after a warm-up over 5 % of the steps; falls linearly to 0")
    leave_out: list[str] = Field(
        [],
        exclude_if=not_,  # a base that leaves nothing out keeps the identity it had before there was a choice
        description="skills that the corpus never shows, so that a later stage can teach them",
    )
    checkpoint_every: int = Field(250, gt=0, description="steps; a killed run resumes there, bit for bit")

    @field_validator("leave_out")
    @classmethod
    def _skills(cls, names: list[str]) -> list[str]:
        if unknown := [name for name in names if name not in SKILLS]:
            raise ValueError(f"no skill {unknown[0]!r}; the skills: {', '.join(SKILLS)}")
        if len(set(names)) < len(names):
            raise ValueError("each skill once")
        return names

    @model_validator(mode="after")
    def _shapes(self) -> PretrainConfig:
        if self.hidden_size % HEAD_SIZE:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of the head size {HEAD_SIZE}")
        if self.batch_tokens % 64:
            raise ValueError(f"batch_tokens {self.batch_tokens} is not a multiple of the row length 64")
        return self
