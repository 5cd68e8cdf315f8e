"""Finding the references to models and data inside any configuration."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from alignment.core.config import DataRef, ModelRef
from alignment.data.mixture import MixedRef

Reference = ModelRef | DataRef


def references(config: object, path: str = "") -> Iterator[tuple[str, Reference]]:
    """Every reference in `config` with its dotted path, which is also its role among the stage's inputs; of a mixture its parts."""
    mixed = isinstance(config, MixedRef) and config.mixture is not None
    if isinstance(config, ModelRef | DataRef) and not mixed:
        yield path, config
    elif isinstance(config, BaseModel):
        for name in type(config).model_fields:
            yield from references(getattr(config, name), f"{path}.{name}" if path else name)
    elif isinstance(config, dict):
        for name, value in config.items():
            yield from references(value, f"{path}.{name}")
    elif isinstance(config, list | tuple):
        for index, value in enumerate(config):
            yield from references(value, f"{path}.{index}")
