"""What of a model is trained: adapters beside frozen weights, or some of its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from alignment.core.errors import ModelError
from alignment.models.attached import attach
from alignment.models.config import FreezeConfig, PeftConfig
from alignment.models.freezing import frozen_names


def add_adapter(
    model: PreTrainedModel, peft: PeftConfig, seed: int = 0, task: str = "CAUSAL_LM", heads: Sequence[str] = ()
) -> Any:
    """`model` frozen, with a fresh adapter drawn from `seed` alone. Raises ModelError if no layer is a target.

    task: what the model is for, in peft's words. heads: names of parts that are trained whole beside the adapter.
    """
    from peft import get_peft_model

    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if not peft.merges:
                return attach(model, peft)
            adapted = get_peft_model(model, _configuration(peft, task, heads))
    except ValueError as error:
        names = sorted(
            {name.split(".")[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        )
        raise ModelError(
            str(model.name_or_path),
            f"target_modules {peft.target_modules}: {str(error).splitlines()[0]}",
            f"all-linear, or some of {', '.join(names)}",
            "correct peft.target_modules",
        ) from None
    if peft.method == "ia3":
        _within_targets(adapted.peft_config["default"])
    return adapted


def _within_targets(config: Any) -> None:
    """peft adds the feed-forward layers that it knows, and refuses to read a saved adapter where these are no targets."""
    targets, inner = config.target_modules, config.feedforward_modules
    if isinstance(targets, set) and isinstance(inner, set):
        longer = [
            max(name, target, key=len)
            for name in inner
            for target in targets
            if _ends_in(name, target) or _ends_in(target, name)
        ]
        config.feedforward_modules, config.target_modules = set(longer), targets | set(longer)


def _ends_in(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _configuration(peft: PeftConfig, task: str, heads: Sequence[str]) -> Any:
    from peft import IA3Config, LoraConfig

    common: dict[str, Any] = {"task_type": task}
    if heads:
        common |= {"modules_to_save": list(heads), "exclude_modules": list(heads)}
    if peft.method == "ia3":  # which layers are feed-forward differs by architecture: peft knows the common ones
        return IA3Config(target_modules=None if peft.target_modules == "all-linear" else peft.target_modules, **common)
    return LoraConfig(
        r=peft.r,
        lora_alpha=peft.alpha,
        lora_dropout=peft.dropout,
        target_modules=peft.target_modules,
        use_rslora=peft.method == "rslora",
        use_dora=peft.method == "dora",
        **common,
    )


def freeze_weights(model: torch.nn.Module, freeze: FreezeConfig) -> None:
    """Takes the gradients of the named weights away. Raises ModelError where a pattern names nothing, or nothing is left."""
    frozen = frozen_names([name for name, _ in model.named_parameters()], freeze)
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
