"""A stage says in its log what it trains and what that takes of the memory, before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.core.context import Context
from alignment.core.errors import ModelError
from alignment.memory.shape import shape_in
from alignment.memory.stages import memory_of, training_of
from alignment.memory.words import MIB, machine_bytes, told


def announce_memory(config: Any, model: Path, longest: int, context: Context) -> dict[str, Any]:
    """For the stage's summary: how many parameters are trained, and MiB by part and at most at once. longest: tokens of its longest row,
    or prompt. Empty for a model whose sizes are not understood."""
    try:
        training = training_of(config, shape_in(model), longest)
        memory = memory_of(config, training)
    except ModelError as error:  # an estimate must not stop a training
        context.log.info(f"memory: not estimated: {error.what}")
        return {}
    for line in told(training, memory, machine_bytes()):
        context.log.info(line)
    return {
        "trainable_parameters": memory.trainable,
        "parameters": memory.parameters,
        "estimated_memory_mib": round(memory.peak / MIB, 1),
        "memory_parts_mib": {name: round(count / MIB, 1) for name, count in memory.parts.items()},
    }
