"""Sequence classification: what a recipe can say about it. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from alignment.models.config import SupervisedConfig

_METHODS = ("lora", "rslora", "dora", "ia3")


class ClassifyConfig(SupervisedConfig):
    """A pretrained encoder (BERT) or decoder (GPT-2) under a new head, on rows of `text` and `label`. Labels are names, or numbers
    with names by `values: {label: [negative, positive]}`; which ones there are, the training rows say. With `peft` the head is
    trained whole beside the adapter.

    A classifier is measured on tasks of metric `labels`; beside an instruction-tuned model on the same rows it shows what a head
    gains over an answer in words.
    """

    kind: Literal["classify"] = "classify"
    learning_rate: float = Field(5e-5, gt=0)

    @model_validator(mode="after")
    def _head_reads_the_text(self) -> ClassifyConfig:
        if (
            self.peft is not None and self.peft.method not in _METHODS
        ):  # a virtual token would be taken for the text's end
            raise ValueError(f"peft.method: a classification head goes with {', '.join(_METHODS)}")
        return self
