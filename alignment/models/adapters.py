"""What of a model is trained: adapters beside frozen weights, or some of its own weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from transformers import PreTrainedModel

from alignment.core.errors import ModelError
from alignment.models.attached import attach
from alignment.models.config import FreezeConfig, PeftConfig

_LAYER = re.compile(r"\.(?:layers|layer|h|blocks|block)\.(\d+)\.")  # Llama, BERT, GPT-2, T5 and others number theirs so


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
            return get_peft_model(model, _configuration(peft, task, heads)) if peft.merges else attach(model, peft)
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
    names = [name for name, _ in model.named_parameters()]
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
        frozen |= {name for name in names if "embed" in name or ".wte." in name or ".wpe." in name}
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("freeze", "every weight is frozen", "something to train", "freeze less")
