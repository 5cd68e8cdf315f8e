"""Learning from preferences without a reward model or sampling: what a recipe can say about DPO and KTO. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alignment.core.config import DataRef, ModelRef
from alignment.models.config import AnchoredConfig

DpoLoss = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down",
    "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


class PreferenceTraining(AnchoredConfig):
    """model: where the policy starts. reference: what it is held against; None = the model as it began. beta: how strongly it is
    held (the larger, the closer). How long is said by exactly one of steps and epochs."""

    reference: ModelRef | None = None
    data: DataRef
    validation: DataRef | None = None
    beta: float = Field(0.1, gt=0)
    learning_rate: float = Field(5e-6, gt=0)
    steps: int | None = Field(None, gt=0)
    epochs: float | None = Field(None, gt=0)
    max_length: int | None = Field(None, gt=1, description="tokens of prompt and answer; None = the context")

    @model_validator(mode="after")
    def _consistent(self) -> PreferenceTraining:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps, epochs")
        if self.anchor is not None and self.anchor.method == "kl":
            raise ValueError(
                "anchor: the loss itself holds the policy to its reference, by beta; raise beta, or use l2 or ewc"
            )
        if self.validation == self.data:
            raise ValueError("validation equals data: hold out rows of their own, for example another split")
        return self


class DPOConfig(PreferenceTraining):
    """Direct preference optimisation (Rafailov et al. 2023) on rows of `prompt`, `chosen` and `rejected`.

    loss: trl's loss types with their weights; `{sigmoid: 1, sft: 0.2}` adds the likelihood of the chosen answer (RPO), which
    keeps it from falling. label_smoothing: the share of labels taken to be wrong.
    """

    kind: Literal["dpo"] = "dpo"
    loss: dict[DpoLoss, float] = {"sigmoid": 1.0}
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)

    @field_validator("loss")
    @classmethod
    def _some_loss(cls, loss: dict[str, float]) -> dict[str, float]:
        if not loss:
            raise ValueError("at least one loss with its weight")
        return loss


class KTOConfig(PreferenceTraining):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024) on answers that are good or bad by themselves: rows of `prompt`,
    `completion` and `label`, or of `prompt`, `chosen` and `rejected`, which make one good and one bad answer.

    loss: kto, or apo_zero_unpaired, which does without the estimate of the KL. desirable_weight, undesirable_weight: of good and
    bad answers; their product with the numbers of answers should be within 1:1 and 4:3.
    """

    kind: Literal["kto"] = "kto"
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)
    batch_size: int = Field(
        32, gt=1, description="answers of one forward pass; two at least, for the estimate of the KL"
    )
