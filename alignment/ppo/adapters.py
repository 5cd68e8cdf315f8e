"""Adapters of a shared base: how policy and critic live on it, and what the rollout engine gets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

POLICY, CRITIC, REFERENCE = "default", "critic", "reference"


@torch.no_grad()
def add_like(lm: Any, name: str, source: str | None = None, seed: int = 0) -> None:
    """Another adapter of the policy's shape: a fresh one (which changes nothing yet), or a copy of `source`. All adapters stay
    trainable; peft's own `add_adapter` would leave only one so."""
    trainable = [weight for weight in lm.parameters() if weight.requires_grad]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lm.add_adapter(name, lm.peft_config[POLICY])
    if source is not None:
        weights = dict(lm.named_parameters())
        for key, weight in weights.items():
            if f".{name}." in key:
                weight.copy_(weights[key.replace(f".{name}.", f".{source}.")])
    for weight in [*trainable, *weights_of(lm, name)]:
        weight.requires_grad_(True)


def weights_of(lm: Any, adapter: str) -> list[Tensor]:
    return [weight for key, weight in lm.named_parameters() if f".{adapter}." in key]


def save_adapter(lm: Any, adapter: str, folder: Path) -> Path:
    """The adapter alone in peft's format, for an engine that serves adapters. Returns its folder."""
    lm.save_pretrained(str(folder), selected_adapters=[adapter], safe_serialization=True)
    return folder if adapter == POLICY else folder / adapter
