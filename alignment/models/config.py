"""What a recipe says about how a model is held and optimised. No torch here."""

from __future__ import annotations

from operator import not_
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from alignment.core.config import Config, DataRef, DuringTraining, ModelRef, Precision, StageConfig

# what may be said about each method; all else would be idle
_OPTIONS = {
    **dict.fromkeys(("lora", "rslora", "dora"), ("r", "alpha", "dropout", "target_modules")),
    "ia3": ("target_modules",),
    **dict.fromkeys(("prefix", "prompt", "ptuning"), ("virtual_tokens",)),
    "bottleneck": ("width", "target_modules"),
}
_MEANING = {
    "r": "rank",
    "alpha": "scale",
    "dropout": "dropout",
    "target_modules": "layers to choose",
    "virtual_tokens": "virtual tokens",
    "width": "bottleneck",
}


class PeftConfig(Config):
    """Train a few weights beside frozen ones.

    These can be merged into the weights in the end, at no cost of inference:
    lora: a low-rank update of linear layers (Hu et al. 2021). rslora: the same, scaled by alpha / sqrt(r), for larger ranks
    (Kalajdzievski 2023). dora: direction and magnitude apart (Liu et al. 2024); three times slower. ia3: one factor for each
    channel of keys, values and feed-forward (Liu et al. 2022); very few weights, and rates of 1e-2 and more.

    These cannot: what they leave is the base with the adapter beside it, which can be measured, sampled from by transformers (not
    by vLLM) and be a reference, but not be trained further, interpolated, or made a reward model:
    prefix: keys and values of `virtual_tokens` positions before every text, in each layer (Li and Liang 2021). prompt: embeddings of
    such positions (Lester et al. 2021). ptuning: the same, written by a small network that is trained with them (Liu et al. 2021).
    bottleneck: after attention and feed-forward of each layer h + up(gelu(down(h))), `width` wide in between (Houlsby et al. 2019);
    with `target_modules: [down_proj]` after the feed-forward alone (Pfeiffer et al. 2021).

    LoRA wants a learning rate about ten times that of full fine-tuning. An adapter leaves the embeddings alone: it cannot
    give a meaning to tokens the base never met.
    """

    method: Literal["lora", "rslora", "dora", "ia3", "prefix", "prompt", "ptuning", "bottleneck"] = "lora"
    r: int = Field(8, gt=0, description="rank of the update")
    alpha: int = Field(16, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    virtual_tokens: int | None = Field(
        None, gt=0, exclude_if=not_, description="positions before every text; they come out of the model's context"
    )
    width: int | None = Field(None, gt=0, exclude_if=not_, description="numbers between down and up of a bottleneck")

    @property
    def merges(self) -> bool:
        """Whether it can become part of the weights."""
        return self.method in ("lora", "rslora", "dora", "ia3")

    @model_validator(mode="after")
    def _its_own_options(self) -> PeftConfig:
        own = _OPTIONS[self.method]
        for name in _MEANING:
            if name in self.model_fields_set and name not in own:
                raise ValueError(f"{name}: {self.method} has no {_MEANING[name]}; remove it")
        if "virtual_tokens" in own and self.virtual_tokens is None:
            raise ValueError(f"virtual_tokens: say how many {self.method} is to put before every text, for example 20")
        if "width" in own and self.width is None:
            raise ValueError("width: say how wide the bottleneck is to be, for example 32")
        if (
            self.method == "bottleneck"
            and "target_modules" in self.model_fields_set
            and self.target_modules == "all-linear"
        ):
            raise ValueError(
                "target_modules: bottlenecks stand after attention and feed-forward; name those layers, or leave it out"
            )
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
    Only an adapter can be trained on top, so it goes together with `peft`.

    rest: what the layers that are never quantised (norms, embeddings, output head) are held in. They are few and sensitive, so that
    fp32 is usual, as in peft's `prepare_model_for_kbit_training`; bf16 saves half of a large vocabulary's memory.
    """

    bits: Literal[4, 8]
    rest: Precision = "fp32"


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
        if self.quantization is not None and self.peft is not None and not self.peft.merges:
            raise ValueError(
                f"quantization: goes with lora, rslora, dora and ia3, not with {self.peft.method}; remove one of the two"
            )
        if self.freeze is not None and self.peft is not None:
            raise ValueError("freeze: beside an adapter all weights are frozen anyway; remove one of the two")
        return self


class AnchorConfig(Config):
    """A penalty that holds the model near where it began (alignment/anchors.py has the formulas), added to the loss times `coefficient`.

    l2: on the distance of the weights. ewc: the same, each weight counting as much as it matters for `data`, rows of old data (some
    hundred do) that are read once before the training. kl: on the divergence of what the model says on the rows that it learns.
    The first two cost no time and hold one or two copies of the weights more; kl adds a forward pass of the model as it began.

    Coefficients: kl 0.1 to 1. The others depend on the model's size; ewc's unit is nats a token of old data, so that some
    hundred to some hundred thousand is usual; l2 begins to matter at about 0.01. Draw the frontier.
    """

    method: Literal["l2", "ewc", "kl"]
    coefficient: float = Field(gt=0)
    data: DataRef | None = None

    @model_validator(mode="after")
    def _data_are_for_ewc(self) -> AnchorConfig:
        if self.method == "ewc" and self.data is None:
            raise ValueError("data: ewc has to know which old rows matter; give some hundred")
        if self.method != "ewc" and self.data is not None:
            raise ValueError(f"data: {self.method} reads no old rows; remove it")
        return self


class AnchoredConfig(TuningConfig):
    """A stage that can be held near where it began."""

    anchor: AnchorConfig | None = Field(None, exclude_if=not_)

    @model_validator(mode="after")
    def _something_can_be_held(self) -> AnchoredConfig:
        if self.anchor is not None and self.anchor.method != "kl" and self.peft is not None:
            raise ValueError(
                f"anchor: under an adapter the weights stay where they are, so {self.anchor.method} holds nothing; use kl, or drop peft"
            )
        return self


class EarlyStopping(Config):
    """Stop after so many evaluations without a lower validation loss, and keep the best weights."""

    patience: int = Field(3, gt=0)


class SupervisedConfig(TuningConfig):
    """A stage that learns the right answers that its rows hold. How long is said by exactly one of its LENGTHS."""

    LENGTHS: ClassVar[tuple[str, ...]] = ("steps", "epochs")

    data: DataRef
    validation: DataRef | None = None
    evaluate_every: int | None = Field(None, gt=0, description="steps between validations; None = only at the end")
    early_stopping: EarlyStopping | None = None
    steps: int | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0)
    group_by_length: bool = Field(True, description="batches of rows of similar length: less padding")
    max_length: int | None = Field(
        None, gt=1, description="tokens of a row, or of a packed sequence; None = the context"
    )
    on_long: Literal["error", "truncate"] = Field("error", description="what to do with rows that are longer")

    @model_validator(mode="after")
    def _consistent(self) -> SupervisedConfig:
        given = [name for name in self.LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(self.LENGTHS)} (given: {', '.join(given) or 'none'})")
        if self.validation == self.data:
            raise ValueError("validation equals data: hold out rows of their own, for example another split")
        if self.evaluate_every is not None and self.validation is None:
            raise ValueError("evaluate_every needs validation data")
        if self.early_stopping is not None and self.evaluate_every is None:
            raise ValueError("early_stopping needs validation data and evaluate_every")
        if self.early_stopping is not None and self.evaluate is not None and self.evaluate.best is not None:
            raise ValueError(
                "early_stopping keeps the weights of the lowest validation loss, evaluate.best others: choose"
            )
        return self
