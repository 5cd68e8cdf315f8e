"""What a recipe says about how a model is held and optimised. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alignment.core.config import Config, Precision, StageConfig


class PeftConfig(Config):
    """Train a low-rank adapter beside frozen weights (LoRA, Hu et al. 2021).

    It wants a learning rate about ten times that of full fine-tuning. An adapter leaves the embeddings alone: it cannot
    give a meaning to tokens the base never met.
    """

    method: Literal["lora"] = "lora"
    r: int = Field(8, gt=0, description="rank of the update")
    alpha: int = Field(16, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class QuantizationConfig(Config):
    """Hold the frozen weights in few bits (bitsandbytes): 4 = NF4 with double quantisation (QLoRA), 8 = LLM.int8().
    Only an adapter can be trained on top, so it goes together with `peft`."""

    bits: Literal[4, 8]


class TrainingConfig(StageConfig):
    """The optimiser's side of a supervised stage: AdamW, gradient clipping, a learning rate that falls to 0."""

    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of all steps")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(32, gt=0, description="rows (pairs, packed sequences) of one forward pass")
    gradient_accumulation: int = Field(1, gt=0, description="forward passes of one optimiser step")
    precision: Precision = Field("fp32", description="bf16 = autocast; fully trained weights stay in fp32")
    checkpoint_every: int = Field(100, gt=0, description="steps between the checkpoints that a killed run resumes from")
