"""A model of a known architecture before any training: what a recipe can say about it. No torch here."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, field_validator

from alignment.core.config import ModelRef, StageConfig


class UntrainedConfig(StageConfig):
    """Random weights in an architecture of transformers: the control that tells what pre-training is worth, and a small stand-in
    on which a recipe for a large model can be tried.

    architecture: its `model_type`, such as distilbert, gpt2 or t5. tokenizer: the model whose tokenizer it reads with. sizes: fields
    of its configuration, such as {dim: 64, n_layers: 2}; what is not given is that of the published model, but for the vocabulary
    and the special tokens, which are the tokenizer's.
    """

    kind: Literal["untrained"] = "untrained"
    architecture: str
    tokenizer: ModelRef
    sizes: dict[str, PositiveInt] = {}

    @field_validator("sizes")
    @classmethod
    def _special_tokens_are_the_tokenizers(cls, sizes: dict[str, int]) -> dict[str, int]:
        if named := [name for name in sizes if name.endswith("_token_id")]:
            raise ValueError(f"{named[0]} is no size: it comes from the tokenizer; leave it out")
        return sizes
