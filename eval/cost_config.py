"""What a model costs to run: what can be said about its measurement. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignment.core.config import ModelRef, Precision, StageConfig


class CostConfig(StageConfig):
    """Speed and memory of a language model on this machine: `sequences` side by side of `tokens` each are read, and continued by
    `new_tokens`. machine: part of the result's identity, since another machine has other numbers."""

    kind: Literal["cost"] = "cost"
    model: ModelRef
    machine: str
    precision: Precision = "fp32"
    sequences: int = Field(8, gt=0)
    tokens: int = Field(128, gt=1, description="of a sequence; fewer where the model's context is shorter")
    new_tokens: int = Field(32, gt=0)
    repeats: int = Field(3, gt=0, description="of which the median counts, after one that does not")
