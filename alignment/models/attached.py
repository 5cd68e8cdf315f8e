"""Adapters that cannot be merged into the weights: how a model gets one, and how both are saved and read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from alignment.models.bottleneck import NAME as BOTTLENECK
from alignment.models.bottleneck import add_bottlenecks, load_bottlenecks, save_bottlenecks
from alignment.models.config import PeftConfig
from alignment.models.layout import ADAPTER_FOLDER, BASE_FOLDER
from alignment.models.virtual_tokens import NAME as VIRTUAL_TOKENS
from alignment.models.virtual_tokens import add_virtual_tokens, load_virtual_tokens, virtual_tokens

_BASE_FILES = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")


def attach(model: PreTrainedModel, config: PeftConfig) -> PreTrainedModel:
    """`model` frozen, with a fresh adapter drawn from the global random state. A trainer's checkpoints leave the frozen weights out."""
    model.requires_grad_(False)
    add = add_bottlenecks if config.method == "bottleneck" else add_virtual_tokens
    add(model, config)
    model._keys_to_ignore_on_save = {name for name in model.state_dict() if not _is_adapter(name)}
    return model


def has_attached(model: nn.Module) -> bool:
    return any(_is_adapter(name) for name, _ in model.named_parameters())


def save_attached(model: Any, folder: Path) -> None:
    """Adapter and base beside each other, as `layout` says; all but the tokenizer."""
    origin, base = Path(model.name_or_path), folder / BASE_FOLDER
    base.mkdir(parents=True, exist_ok=True)
    for pattern in _BASE_FILES:
        for file in origin.glob(pattern):
            shutil.copy2(file, base)
    tokens = virtual_tokens(model)
    if tokens is not None:
        tokens.save(folder / ADAPTER_FOLDER)
    else:
        save_bottlenecks(model, folder / ADAPTER_FOLDER)


def load_attached(base: PreTrainedModel, folder: Path) -> None:
    """Gives the model of `folder/base` the adapter beside it, to be read only."""
    config = json.loads((folder / ADAPTER_FOLDER / "adapter_config.json").read_text())
    load = load_bottlenecks if config.get("method") == "bottleneck" else load_virtual_tokens
    load(base, folder / ADAPTER_FOLDER)


def positions_taken(model: Any) -> int:
    """How many positions of the model's context are taken before a text begins."""
    tokens = virtual_tokens(model)
    return 0 if tokens is None else tokens.count


def _is_adapter(name: str) -> bool:
    return not {BOTTLENECK, VIRTUAL_TOKENS}.isdisjoint(name.split("."))
