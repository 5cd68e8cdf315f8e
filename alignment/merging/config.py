"""Between two models: what a recipe can say about interpolated weights. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignment.core.config import ModelRef, StageConfig


class InterpolateConfig(StageConfig):
    """Weights on the line from `model` to `tuned` (WiSE-FT, Wortsman et al. 2022): a model that was fine-tuned from the other, drawn
    back part of the way. factor: the share of `tuned`; several stages with factors of their own draw a frontier of gain and
    forgetting without any training."""

    kind: Literal["interpolate"] = "interpolate"
    model: ModelRef
    tuned: ModelRef
    factor: float = Field(ge=0, le=1)
