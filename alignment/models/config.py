"""What a recipe says about how a model is held while it is trained. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignment.core.config import Config


class PeftConfig(Config):
    """Train a low-rank adapter beside frozen weights (LoRA, Hu et al. 2021).

    It wants a learning rate about ten times that of full fine-tuning. An adapter leaves the embeddings alone: it cannot give
    a meaning to tokens the base never met.
    """

    method: Literal["lora"] = "lora"
    r: int = Field(8, gt=0, description="rank of the update")
    alpha: float = Field(16, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class QuantizationConfig(Config):
    """Hold the frozen weights in few bits (bitsandbytes): 4 = NF4 with double quantisation (QLoRA), 8 = LLM.int8().
    Only an adapter can be trained on top, so it goes together with `peft`."""

    bits: Literal[4, 8]
