"""How a model lies on disk. No torch here.

A plain model is a Hugging Face folder; if it was trained through an adapter, that lies in `adapter/`, already merged. A model whose
adapter cannot be merged is

    <folder>/base/       the model as it was, without tokenizer
    <folder>/adapter/    what was trained: in peft's format for virtual tokens, in our own for bottlenecks
    <folder>/            the tokenizer; no config.json, so that nobody takes the base for the whole
"""

from __future__ import annotations

import json
from pathlib import Path

ADAPTER_FOLDER, BASE_FOLDER = "adapter", "base"


def is_attached(folder: str | Path) -> bool:
    """Whether the folder holds a model with an adapter beside it."""
    return not (Path(folder) / "config.json").exists() and (Path(folder) / BASE_FOLDER / "config.json").exists()


def base_of(folder: str | Path) -> Path:
    """Where config.json and weights lie."""
    return Path(folder) / BASE_FOLDER if is_attached(folder) else Path(folder)


def parts_of(folder: Path) -> list[Path]:
    """The folders whose files make up the model."""
    return [folder, folder / BASE_FOLDER, folder / ADAPTER_FOLDER] if is_attached(folder) else [folder]


def positions_taken_in(folder: str | Path) -> int:
    """How many positions of the model's context are taken before a text begins."""
    if not is_attached(folder):
        return 0
    config = json.loads((Path(folder) / ADAPTER_FOLDER / "adapter_config.json").read_text())
    return config.get("num_virtual_tokens", 0)
