"""Which weights a model has, and whether all of them were sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Outline:
    """A model without its weights, in Hugging Face's naming. parameters: tied ones once. linear: last names of its linear
    layers (`q_proj`), the output head left out: where a LoRA adapter may sit."""

    parameters: frozenset[str]
    linear: frozenset[str]


def outline_of(model_path: Path) -> Outline:
    """Read from the folder's config alone."""
    from transformers import AutoModelForCausalLM

    from alignment.models.load import read_config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read_config(model_path))
    head = model.get_output_embeddings()
    linear = (name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head)
    return Outline(
        frozenset(name for name, _ in model.named_parameters()), frozenset(name.split(".")[-1] for name in linear)
    )


def complete(weights: Iterable[tuple[str, Tensor]], names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """The weights, detached, while counting them off against `names`.

    vLLM holds query, key and value in one matrix: sent without one of them, the rest of that matrix would be garbage, and
    it says nothing. Raises ValueError after the last weight if one of `names` is missing.
    """
    missing = set(names)
    for name, weight in weights:
        missing.discard(name)
        yield name, weight.detach()
    if missing:
        raise ValueError(f"{len(missing)} of {len(names)} weights were not sent, among them {min(missing)}")
