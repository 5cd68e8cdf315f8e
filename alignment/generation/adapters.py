"""What a LoRA adapter must be like for vLLM to serve it. Asked before vLLM sees it: where it refuses, it hangs later on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from alignment.core.errors import ModelError
from alignment.generation.weights import Outline

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM allots
_REMEDY = "send merged weights"


def allotted_rank(rank: int) -> int:
    """The smallest rank that vLLM can make room for and that holds adapters of `rank`. Raises ModelError above 512."""
    for allotted in _RANKS:
        if rank <= allotted:
            return allotted
    raise ModelError("adapter_rank", f"vLLM serves no adapters of rank {rank}", f"at most {_RANKS[-1]}", _REMEDY)


def lora_options(rank: int | None, outline: Outline) -> dict[str, Any]:
    """vLLM's options for serving adapters of up to `rank` (None: none).

    The output head is left out: with it, vLLM on CPU fails at the prompt log-probabilities of two sequences at a time.
    """
    if rank is None:
        return {}
    return {
        "enable_lora": True,
        "max_lora_rank": allotted_rank(rank),
        "lora_target_modules": sorted(outline.linear),
    }


def check_adapter(folder: Path, rank: int | None, outline: Outline) -> None:
    """Raises ModelError unless `folder` holds a plain LoRA or rsLoRA adapter of at most `rank` (None: none is served) on
    linear layers of the model."""
    if rank is None:
        raise ModelError(
            str(folder),
            "this engine was opened without room for adapters",
            "an adapter_rank",
            "open it with adapter_rank",
        )
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
            layers = {name.partition(".lora_")[0].split(".")[-1] for name in weights.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            str(folder), f"no readable adapter: {error}", "an adapter written by peft", "point to the adapter's folder"
        ) from None
    for what in _unserved(config):
        raise ModelError(str(folder), f"vLLM does not serve {what}", "plain LoRA or rsLoRA", _REMEDY)
    if others := layers - outline.linear:
        what = f"this adapter changes {', '.join(sorted(others))}"
        raise ModelError(str(folder), what, f"only {', '.join(sorted(outline.linear))}", _REMEDY)
    if config["r"] > rank:
        raise ModelError(
            str(folder), f"rank {config['r']}", f"at most {rank}", "open the engine with a larger adapter_rank"
        )


def adapter_name(folder: Path) -> str:
    """A name that says what the adapter holds: the same for the same weights and scale, and for no other."""
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = [config["r"], config["lora_alpha"], config.get("use_rslora", False)]
    digest = hashlib.sha256(json.dumps(scale).encode() + (folder / "adapter_model.safetensors").read_bytes())
    return f"adapter-{digest.hexdigest()[:32]}"


def _unserved(config: Mapping[str, Any]) -> list[str]:
    """Features that vLLM refuses, and those that it leaves out without a word."""
    found = [] if config.get("peft_type") == "LORA" else [f"adapters of type {config.get('peft_type')}"]
    found += ["DoRA"] if config.get("use_dora") else []
    found += ["biases in adapters"] if config.get("lora_bias") or config.get("bias", "none") != "none" else []
    features = (
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "trainable_token_indices",
        "alora_invocation_tokens",
    )
    return found + [f"adapters with {feature}" for feature in features if config.get(feature)]
