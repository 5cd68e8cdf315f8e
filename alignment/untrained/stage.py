"""Lays out an architecture with random weights, and saves it with a tokenizer as a plain Hugging Face folder."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import RecipeError
from alignment.models.load import load_tokenizer, parameter_counts
from alignment.untrained.config import UntrainedConfig

# an encoder also has a causal form, which nobody means
_CLASSES: dict[Any, Collection[str]] = {
    AutoModelForSeq2SeqLM: MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys(),
    AutoModelForMaskedLM: MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys(),
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys(),
}


def run(config: UntrainedConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    """Raises RecipeError for an architecture that transformers does not know, or sizes that it does not have."""
    auto_class = next((each for each, names in _CLASSES.items() if config.architecture in names), None)
    if auto_class is None:
        what = f"no language model of type {config.architecture!r}"
        raise RecipeError("architecture", what, "a model_type of transformers, such as gpt2", "correct it")
    tokenizer: Any = load_tokenizer(inputs["tokenizer"].path, generates=False)
    model_config = _sized(config, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(context.seed_for("weights"))
        try:
            model = auto_class.from_config(model_config)
        except (ValueError, ZeroDivisionError, RuntimeError) as error:
            raise RecipeError(
                "sizes", str(error).splitlines()[0], "sizes that fit each other", "correct them"
            ) from None
    model.save_pretrained(context.workdir)
    tokenizer.save_pretrained(context.workdir)
    return parameter_counts(model)


def _sized(config: UntrainedConfig, tokenizer: Any) -> Any:
    """The architecture's configuration with the recipe's sizes and the tokenizer's special tokens."""
    known = set(inspect.signature(CONFIG_MAPPING[config.architecture]).parameters)
    if unknown := sorted(set(config.sizes) - known):
        sizes = ", ".join(sorted(name for name in known if "layer" in name or "dim" in name or "hidden" in name))
        raise RecipeError(f"sizes.{unknown[0]}", f"{config.architecture} has no such size", f"for example {sizes}", "")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    if config.architecture in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        ids |= {"decoder_start_token_id": tokenizer.pad_token_id}  # as T5 has it
    return AutoConfig.for_model(config.architecture, **{"vocab_size": len(tokenizer)} | config.sizes | ids)
