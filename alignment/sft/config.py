"""Supervised fine-tuning: what a recipe can say about it. No torch here."""

from __future__ import annotations

from operator import not_
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from alignment.core.config import Config, ModelRef
from alignment.data.mixture import MixedRef
from alignment.models.config import AnchoredConfig, SupervisedConfig


class Replay(Config):
    """Rows of earlier data mixed into the batches, so that what they teach is not forgotten. share: of all rows trained on."""

    data: MixedRef
    share: float = Field(gt=0, lt=1)


class Order(Config):
    """A curriculum: rows in this order, small values first, in every epoch alike, instead of shuffled (Bengio et al. 2009).

    by: length = in tokens; loss = the mean over a row's answer under `model`, which reads the same tokens; column = a number that the
    rows hold.
    """

    by: Literal["length", "loss", "column"]
    column: str | None = Field(None, min_length=1)
    model: ModelRef | None = None
    descending: bool = Field(False, description="large values first")

    @model_validator(mode="after")
    def _consistent(self) -> Order:
        for field, by in (("column", "column"), ("model", "loss")):
            if (self.by == by) != (getattr(self, field) is not None):
                raise ValueError(f"`by: {by}` and {field} go together: give both or neither")
        return self


class SFTConfig(SupervisedConfig, AnchoredConfig):
    """Rows hold `prompt` and `completion` (loss on the answer), `messages` (loss on the assistant's turns) or `text`
    (loss on everything); an EOS is trained too unless the row says `finished: false`. They may be mixed from several data sets
    (alignment/data/mixture.py). How long is said by exactly one of steps, epochs and match_tokens."""

    LENGTHS: ClassVar[tuple[str, ...]] = ("steps", "epochs", "match_tokens")

    kind: Literal["sft"] = "sft"
    data: MixedRef
    validation: MixedRef | None = None
    replay: Replay | None = None
    order: Order | None = Field(None, exclude_if=not_)
    match_tokens: ModelRef | None = Field(
        None, description="a stage whose `train_tokens` this one also trains on, to the nearest step"
    )
    packing: bool = Field(
        False, description="several rows in one sequence, isolated from each other (best fit decreasing)"
    )
    group_by_length: bool = Field(
        True, description="batches of rows of similar length: less padding; an order comes before it"
    )

    @model_validator(mode="after")
    def _rows_are_ordered_once(self) -> SFTConfig:
        if self.order is not None and self.packing:
            raise ValueError("packing puts rows in an order of its own: remove it, or order")
        if self.order is not None and self.group_by_length and "group_by_length" in self.model_fields_set:
            raise ValueError("group_by_length shuffles what order has sorted: remove one of the two")
        if self.packing and self.peft is not None and self.peft.virtual_tokens is not None:
            raise ValueError(
                f"packing: {self.peft.method} stands before every text, and a packed sequence holds several; set it to false"
            )
        return self
