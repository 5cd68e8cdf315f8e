"""What an engine gets of a model that is trained through an adapter: whole weights, the adapter's change added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.utils.integrations import dequantize_bnb_weight, get_bnb_param_type
from torch import Tensor


@torch.no_grad()
def merged_weights(lm: Any, adapter: str = "default") -> Iterator[tuple[str, Tensor]]:
    """Weights of the base under their own names, with the adapter's change added; those held in few bits come as what they
    stand for. Nothing in the model changes. A model without adapters gives its weights as they are."""
    if not hasattr(lm, "get_base_model"):
        yield from ((name, weight.detach()) for name, weight in lm.named_parameters())
        return
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
