"""Adapters of a shared base: how policy and critic live on it, and what the rollout engine gets of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import dequantize_bnb_weight, get_bnb_param_type
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


@torch.no_grad()
def merged_weights(lm: Any, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """Weights of the base under their own names, with the adapter's change added; those held in few bits come as what they
    stand for. Nothing in the model changes."""
    layers: dict[str, Any] = dict(lm.get_base_model().named_modules())
    for name, weight in lm.get_base_model().named_parameters():
        if ".lora_" in name:
            continue
        owner, _, kind = name.rpartition(".")
        if kind == "weight":
            weight = _in_full(layers[owner])
        if name.endswith(".base_layer.weight"):
            layer = layers[owner.removesuffix(".base_layer")]
            if adapter in layer.lora_A:
                weight = (weight.float() + layer.get_delta_weight(adapter).float()).to(weight.dtype)
        yield name.replace(".base_layer.", "."), weight.detach()


def _in_full(layer: Any) -> Tensor:
    """A layer's weight, bits dequantised. peft's own function for layers takes the scales of 8-bit ones away on the CPU."""
    if not get_bnb_param_type(layer.weight):
        return layer.weight
    return dequantize_bnb_weight(layer.weight, state=getattr(layer, "state", None))


def save_adapter(lm: Any, adapter: str, folder: Path) -> Path:
    """The adapter alone in peft's format, for an engine that serves adapters. Returns its folder."""
    lm.save_pretrained(str(folder), selected_adapters=[adapter], safe_serialization=True)
    return folder if adapter == POLICY else folder / adapter
