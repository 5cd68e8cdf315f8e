"""What a recipe says about how a model is held and optimised. No torch here."""

from __future__ import annotations

from operator import not_
from typing import Literal

from pydantic import Field, model_validator

from alignment.core.config import Config, DuringTraining, ModelRef, Precision, StageConfig


class PeftConfig(Config):
    """Train a few weights beside frozen ones. All of these can be merged into the weights in the end, at no cost of inference.

    lora: a low-rank update of linear layers (Hu et al. 2021). rslora: the same, scaled by alpha / sqrt(r), for larger ranks
    (Kalajdzievski 2023). dora: direction and magnitude apart (Liu et al. 2024); three times slower. ia3: one factor for each
    channel of keys, values and feed-forward (Liu et al. 2022); very few weights, and rates of 1e-2 and more.

    LoRA wants a learning rate about ten times that of full fine-tuning. An adapter leaves the embeddings alone: it cannot
    give a meaning to tokens the base never met.
    """

    method: Literal["lora", "rslora", "dora", "ia3"] = "lora"
    r: int = Field(8, gt=0, description="rank of the update")
    alpha: int = Field(16, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"

    @model_validator(mode="after")
    def _no_option_is_idle(self) -> PeftConfig:
        idle = [name for name in ("r", "alpha", "dropout") if name in self.model_fields_set]
        if self.method == "ia3" and idle:
            raise ValueError(f"{idle[0]}: ia3 has no rank, scale or dropout; remove it")
        return self


class FreezeConfig(Config):
    """Weights that stay as they are. layers: the first so many, with the embeddings below them. patterns: names of parameters, with
    * for any part of a name, such as `*.mlp.*`. What is tied to something frozen (an output head to the embeddings) is frozen too."""

    layers: int | None = Field(None, gt=0)
    patterns: list[str] = []

    @model_validator(mode="after")
    def _something(self) -> FreezeConfig:
        if self.layers is None and not self.patterns:
            raise ValueError("nothing to freeze: give layers or patterns")
        return self


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


class TuningConfig(TrainingConfig):
    """A stage that goes on training a language model: which of its weights, in what form, and whether it is watched meanwhile."""

    model: ModelRef
    peft: PeftConfig | None = None
    quantization: QuantizationConfig | None = None
    freeze: FreezeConfig | None = Field(None, exclude_if=not_)
    evaluate: DuringTraining | None = None

    @model_validator(mode="after")
    def _something_can_be_trained(self) -> TuningConfig:
        if self.quantization is not None and self.peft is None:
            raise ValueError("quantised weights cannot be trained: add a peft block, or drop quantization")
        if self.freeze is not None and self.peft is not None:
            raise ValueError("freeze: beside an adapter all weights are frozen anyway; remove one of the two")
        return self
