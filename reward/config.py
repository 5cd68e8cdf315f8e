"""What a recipe can say about excerpts, preference pairs and reward models. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignment.core.config import DataRef, ModelRef, Precision, StageConfig
from alignment.gold import GoldName
from alignment.models.config import TrainingConfig


class ExcerptsConfig(StageConfig):
    """Texts cut into rows of `prompt` (an opening) and `completion` (its continuation), counted in a model's tokens.

    A text goes to train, validation or test as a whole. Rows carry `finished: false`: a window does not end.
    """

    kind: Literal["excerpts"] = "excerpts"
    model: ModelRef
    data: DataRef
    opening_tokens: int = Field(20, gt=0)
    continuation_tokens: int = Field(48, gt=0)
    windows: Literal["first", "all"] = Field("first", description="the beginning of each text, or one after another")
    gold: GoldName | None = Field(
        None, description="a gold scorer, whose score of the continuation becomes field `gold`"
    )
    keep_above: float | None = Field(None, description="keep only rows whose gold is higher; needs gold")

    @model_validator(mode="after")
    def _consistent(self) -> ExcerptsConfig:
        if self.keep_above is not None and self.gold is None:
            raise ValueError("keep_above needs gold, the scorer to filter by")
        return self


class AnswersConfig(StageConfig):
    """Answers that `model` samples to each prompt."""

    model: ModelRef
    prompts: DataRef
    max_new_tokens: int = Field(48, gt=0)
    temperature: float = Field(1.0, gt=0)
    engine: Literal["auto", "vllm", "hf"] = "auto"
    precision: Precision = "fp32"
    batch_size: int = Field(64, gt=0, description="answers sampled at once")


class PreferencesConfig(AnswersConfig):
    """Pairs of answers that `model` samples, labelled by the gold scorer with Bradley-Terry noise:
    P(first is chosen) = sigmoid(slope * (gold of the first - gold of the second))."""

    kind: Literal["preferences"] = "preferences"
    gold: GoldName
    slope: float = Field(10.0, gt=0, description="how sharply the labels follow gold")
    samples: int = Field(2, ge=2, multiple_of=2, description="answers of each prompt; they are compared two by two")
    pairs: int | None = Field(None, gt=0, description="at most so many pairs; None = all")
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of the prompts whose pairs are held out")


class BestOfNConfig(AnswersConfig):
    """Of `samples` answers to each prompt the one that a judge scores highest: demonstrations for SFT (rejection sampling
    fine-tuning). The judge is a reward model or a gold scorer; with both the reward model decides, and gold is only reported.

    above: rows whose best score is not higher than this are left out (a reward model's scores have mean 0 and deviation 1).
    """

    kind: Literal["best_of_n"] = "best_of_n"
    reward: ModelRef | None = None
    gold: GoldName | None = None
    samples: int = Field(4, ge=2, description="answers of each prompt")
    above: float | None = None

    @model_validator(mode="after")
    def _has_a_judge(self) -> BestOfNConfig:
        if self.reward is None and self.gold is None:
            raise ValueError("no judge: give reward, a reward model, or gold, a gold scorer")
        return self


class RewardConfig(TrainingConfig):
    """A Bradley-Terry reward model from rows of `prompt`, `chosen` and `rejected`; the gold of both, if given, is only
    measured against. A row's `chosen_finished` or `rejected_finished: false` says that this answer was cut off.

    pooling: `last` reads the last token, as is usual; `mean` averages over the answer, which suits small models better.
    """

    kind: Literal["reward"] = "reward"
    model: ModelRef
    data: DataRef
    validation: DataRef | None = None
    pooling: Literal["last", "mean"] = "last"
    learning_rate: float = Field(3e-4, gt=0)
    epochs: float = Field(2, gt=0)
    batch_size: int = Field(8, gt=0, description="pairs of one forward pass")
    max_length: int | None = Field(None, gt=1, description="tokens of prompt and answer; None = the context")
    normalise_on: DataRef | None = Field(
        None,
        description="rows of prompt and completion whose mean reward becomes 0 and deviation 1 for the scorer; "
        "None = all answers of the training pairs",
    )

    @model_validator(mode="after")
    def _consistent(self) -> RewardConfig:
        if self.validation == self.data:
            raise ValueError("validation equals data: hold out rows of their own, for example another split")
        return self
