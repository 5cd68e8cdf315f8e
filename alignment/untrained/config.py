"""A model of a known architecture before any training: what a recipe can say about it. No torch here."""

from __future__ import annotations

from typing import Literal

from alignment.core.config import ModelRef, StageConfig


class UntrainedConfig(StageConfig):
    """Random weights in an architecture of transformers: the control that tells what pre-training is worth, and a small stand-in
    on which a recipe for a large model can be tried.

    architecture: its `model_type`, such as distilbert, gpt2 or t5. tokenizer: the model whose tokenizer it reads with. sizes: fields
    of its configuration, such as {dim: 64, n_layers: 2}; what is not given is that of the published model.
    """

    kind: Literal["untrained"] = "untrained"
    architecture: str
    tokenizer: ModelRef
    sizes: dict[str, int] = {}
