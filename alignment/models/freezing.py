"""Which weights `freeze:` means, by their names. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from alignment.core.errors import ModelError
from alignment.models.config import FreezeConfig

_LAYER = re.compile(r"\.(?:layers|layer|h|blocks|block)\.(\d+)\.")  # Llama, BERT, GPT-2, T5 and others number theirs so

_EMBEDDING = re.compile(r"embed|\.(?:wte|wpe|shared)\.")  # T5 and BART call theirs shared


def frozen_names(names: Sequence[str], freeze: FreezeConfig) -> set[str]:
    """Those of a model's weights that stay as they are. Raises ModelError where a pattern names nothing, or nothing is left."""
    numbers = [int(match[1]) for name in names if (match := _LAYER.search(f".{name}"))]
    frozen = set()
    for pattern in freeze.patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            raise ModelError(
                "freeze.patterns", f"{pattern!r} names no weight", f"for example {names[-1]}", "correct it"
            )
        frozen |= matched
    if freeze.layers is not None:
        if not numbers or freeze.layers > max(numbers) + 1:
            what = f"{freeze.layers} layers of a model that has {max(numbers, default=-1) + 1}"
            raise ModelError("freeze.layers", what, "no more than there are", "lower it")
        frozen |= {name for name in names if (match := _LAYER.search(f".{name}")) and int(match[1]) < freeze.layers}
        frozen |= {name for name in names if _EMBEDDING.search(f".{name}")}
    if frozen.issuperset(names):
        raise ModelError("freeze", "every weight is frozen", "something to train", "freeze less")
    return frozen
