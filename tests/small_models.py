"""Models of a few thousand weights in the architectures of well-known ones, made on the spot: the same code runs on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    DistilBertConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

_HEADS = {"num_attention_heads": 2, "num_hidden_layers": 2}
_CONFIGS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bert": (BertConfig, AutoModelForMaskedLM, {"hidden_size": 32, "intermediate_size": 64, **_HEADS}),
    "distilbert": (DistilBertConfig, AutoModelForMaskedLM, {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}),
    "gpt2": (GPT2Config, AutoModelForCausalLM, {"n_embd": 32, "n_layer": 2, "n_head": 2}),
    "llama": (LlamaConfig, AutoModelForCausalLM, {"hidden_size": 64, "intermediate_size": 64, **_HEADS}),
    "qwen2": (
        Qwen2Config,
        AutoModelForCausalLM,
        {"hidden_size": 64, "intermediate_size": 64, "num_key_value_heads": 2, **_HEADS},
    ),
    "opt": (OPTConfig, AutoModelForCausalLM, {"hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32, **_HEADS}),
    "gpt_neox": (GPTNeoXConfig, AutoModelForCausalLM, {"hidden_size": 32, "intermediate_size": 64, **_HEADS}),
    "falcon": (FalconConfig, AutoModelForCausalLM, {"hidden_size": 32, **_HEADS}),
    "t5": (T5Config, AutoModelForSeq2SeqLM, {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}),
}
_ENCODERS = ("bert", "distilbert")
"""Encoders have a pad, a first and a last token but no EOS; GPT-2, Falcon and GPT-NeoX have an EOS but no pad."""


def save_small(kind: str, folder: Path, words: list[str], context: int = 64, template: str | None = None) -> Path:
    """A model of that `model_type` with a tokenizer of these words, as the known ones have it, in a Hugging Face folder."""
    tokenizer = _tokenizer(kind, words, template)
    config_class, model_class, sizes = _CONFIGS[kind]
    positions = {"gpt2": "n_positions", "t5": "n_positions"}.get(kind, "max_position_embeddings")
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = config_class(vocab_size=len(tokenizer), **{positions: context}, **sizes, **ids)
    if kind == "t5":
        config.decoder_start_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class.from_config(config)
    for value in model.parameters():
        if value.dim() > 1 and kind != "t5":
            value.data.mul_(3)  # else all logits are nearly equal, and no difference could be seen
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(kind: str, words: list[str], template: str | None) -> PreTrainedTokenizerFast:
    if kind in _ENCODERS:
        special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    elif kind in ("gpt2", "falcon", "gpt_neox"):
        special = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    else:
        special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special.values(), *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    if kind in _ENCODERS:
        pieces = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pieces)
    if kind == "t5":
        backend.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)
