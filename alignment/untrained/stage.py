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
    """Raises RecipeError for an architecture that transformers does not know, and for sizes that it does not have or that do not fit
    each other or the tokenizer."""
    auto_class = next((each for each, names in _CLASSES.items() if config.architecture in names), None)
    if auto_class is None:
        what = f"no language model of type {config.architecture!r}"
        raise RecipeError("architecture", what, "a model_type of transformers, such as gpt2", "correct it")
    tokenizer: Any = load_tokenizer(inputs["tokenizer"].path, generates=False)
    fields = _fields(config, tokenizer)
    with torch.random.fork_rng():
        torch.manual_seed(context.seed_for("weights"))
        try:
            model = auto_class.from_config(AutoConfig.for_model(config.architecture, **fields))
        except Exception as error:  # of any kind: each architecture has checks of its own, or none
            reason = str(error.__cause__ or error).strip() or type(error).__name__
            raise RecipeError("sizes", reason.splitlines()[0], "sizes that fit each other", "correct them") from None
    model.save_pretrained(context.workdir)
    tokenizer.save_pretrained(context.workdir)
    return parameter_counts(model)


def _fields(config: UntrainedConfig, tokenizer: Any) -> dict[str, int | None]:
    """Of the architecture's configuration: the recipe's sizes, and the tokenizer's vocabulary and special tokens."""
    known = set(inspect.signature(CONFIG_MAPPING[config.architecture]).parameters)
    if "vocab_size" not in known:
        what = f"{config.architecture} is put together from several models"
        raise RecipeError("architecture", what, "one model with a vocabulary, such as gpt2 or t5", "name another")
    if unknown := sorted(set(config.sizes) - known):
        sizes = ", ".join(sorted(name for name in known if "layer" in name or "dim" in name or "hidden" in name))
        raise RecipeError(
            f"sizes.{unknown[0]}", f"{config.architecture} has no such size", f"for example {sizes}", "correct the name"
        )
    if config.sizes.get("vocab_size", len(tokenizer)) < len(tokenizer):
        what = f"{config.sizes['vocab_size']} is less than the tokenizer has"
        raise RecipeError("sizes.vocab_size", what, f"{len(tokenizer)} or more", "leave it out, or raise it")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    if config.architecture in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        ids |= {"decoder_start_token_id": tokenizer.pad_token_id}  # as T5 has it
    return {"vocab_size": len(tokenizer)} | config.sizes | ids
