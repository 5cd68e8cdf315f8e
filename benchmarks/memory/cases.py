"""Which trainings are measured: three models, in full and through adapters. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STORIES = "$ALIGN_ASSETS/models/stories260K", "$ALIGN_ASSETS/data/corpora/tinystories_slice.jsonl"


@dataclass(frozen=True)
class Model:
    """title: in tables. settings: of every training of it."""

    title: str
    settings: dict[str, Any] = field(default_factory=dict)


MODELS = {
    "lab": Model("the lab's Llama, 1.8M", {"batch_size": 32, "steps": 30}),
    "stories": Model(
        "stories260K, real weights", {"batch_size": 32, "steps": 20, "max_length": 192, "on_long": "truncate"}
    ),
    "wide": Model("a Llama of 100M, made on the spot", {"batch_size": 8, "steps": 8}),
}
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA": {"peft": {"r": 8}},
    "full, bf16": {"precision": "bf16"},
    "LoRA, bf16": {"peft": {"r": 8}, "precision": "bf16"},
    "4-bit LoRA": {"peft": {"r": 8}, "quantization": {"bits": 4}},
}
CASES = [(model, way) for way in WAYS for model in MODELS if model == "wide" or "bit" not in way]
