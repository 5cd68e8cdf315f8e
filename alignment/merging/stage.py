"""Interpolated weights (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.merging.config import InterpolateConfig
from alignment.models.load import load_causal_lm, load_tokenizer, read_config, save_model


def run(config: InterpolateConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """Every weight w = (1 - factor) * w_model + factor * w_tuned, in fp32; tokenizer and dtype are those of `tuned`.

    Summary: distance = |w_tuned - w_model| over all weights. Raises ModelError for models whose weights do not correspond.
    """
    start: Any = load_causal_lm(inputs["model"].path)
    tuned: Any = load_causal_lm(inputs["tuned"].path)
    others = dict(start.named_parameters())
    _require_same_shapes(others, dict(tuned.named_parameters()))
    squares = 0.0
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            squares += float((weight.double() - others[name].double()).square().sum())
            weight.copy_(torch.lerp(others[name], weight, config.factor))
    dtype = read_config(inputs["tuned"].path).dtype or torch.float32
    save_model(tuned.to(dtype), load_tokenizer(inputs["tuned"].path), context.workdir)
    return {"factor": config.factor, "distance": squares**0.5}


def _require_same_shapes(start: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor]) -> None:
    differing = sorted(
        name
        for name in start.keys() | tuned.keys()
        if name not in start or name not in tuned or start[name].shape != tuned[name].shape
    )
    if differing:
        raise ModelError(
            "tuned",
            f"{len(differing)} weights differ in name or shape from those of `model`, such as {differing[0]}",
            "two models of one architecture and vocabulary",
            "name a model that was fine-tuned from the other",
        )
