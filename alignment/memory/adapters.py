"""How many weights are trained: of the model itself, and of an adapter beside it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from alignment.core.errors import ModelError
from alignment.memory.shape import Shape
from alignment.models.config import FreezeConfig, PeftConfig
from alignment.models.freezing import frozen_names

_BOTTLENECKS = 2  # in each layer: after attention and after feed-forward


def trained_weights(shape: Shape, peft: PeftConfig | None, freeze: FreezeConfig | None) -> int:
    """Numbers that the optimiser moves."""
    if peft is not None:
        return adapter_weights(shape, peft)
    frozen = _frozen(list(shape.weights), freeze) if freeze is not None else set()
    return sum(prod(size) for name, size in shape.weights.items() if name not in frozen)


def _frozen(names: Sequence[str], freeze: FreezeConfig) -> set[str]:
    """Some files, such as GPT-2's on the hub, name weights without the first part of their name in the model."""
    try:
        return frozen_names(names, freeze)
    except ModelError:
        patterns = [pattern.partition(".")[2] or pattern for pattern in freeze.patterns]
        return frozen_names(names, freeze.model_copy(update={"patterns": patterns}))


def adapter_weights(shape: Shape, peft: PeftConfig) -> int:
    """Those of a fresh adapter. ia3's is what peft chooses for Llama and its kin: keys, values and the inner state."""
    sizes = [size for name, size in shape.linear.items() if _is_target(name, peft)]
    if peft.method == "ia3":
        return shape.layers * (2 * shape.keys + shape.feed_forward)
    if peft.method == "bottleneck":
        assert peft.width is not None
        places = _BOTTLENECKS * shape.layers if peft.target_modules == "all-linear" else len(sizes)
        return places * (2 * shape.hidden * peft.width + peft.width + shape.hidden)
    if peft.virtual_tokens is not None:
        each = 2 * shape.layers * shape.keys if peft.method == "prefix" else shape.hidden
        network = 3 * shape.hidden * (shape.hidden + 1) if peft.method == "ptuning" else 0
        return peft.virtual_tokens * each + network
    magnitudes = sum(size[0] for size in sizes) if peft.method == "dora" else 0
    return sum(peft.r * sum(size) for size in sizes) + magnitudes


def _is_target(name: str, peft: PeftConfig) -> bool:
    chosen = peft.target_modules
    return chosen == "all-linear" or any(name == one or name.endswith(f".{one}") for one in chosen)
