"""Encoder-decoders such as T5: loading, batches, greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from alignment.core.config import Precision
from alignment.core.errors import ModelError
from alignment.models.config import FreezeConfig, PeftConfig, QuantizationConfig
from alignment.models.load import from_pretrained, made_trainable, read_config
from alignment.models.precision import held_as

IGNORED = -100


def load_seq2seq(
    path: str | Path,
    precision: Precision = "fp32",
    peft: PeftConfig | None = None,
    quantization: QuantizationConfig | None = None,
    freeze: FreezeConfig | None = None,
    seed: int = 0,
) -> PreTrainedModel | Any:
    """An encoder-decoder in training state; a `PeftModel` when `peft` is given. Raises ModelError if the folder holds none."""
    config = read_config(path)
    if config.model_type not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        what = f"a model of type {config.model_type!r} is no encoder-decoder"
        raise ModelError(str(path), what, "T5, BART or the like", "use a stage of kind sft, or another model")
    model = from_pretrained(AutoModelForSeq2SeqLM, path, config=config, **held_as(precision, quantization))
    return made_trainable(model, peft, freeze, seed, "SEQ_2_SEQ_LM").train()


def collate(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int
) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, S] of the prompts; labels and decoder_input_ids [B, T] of the answers, which are the labels
    one place later. All padded on the right."""
    labels = _padded(answers, IGNORED)
    mask = _padded([[1] * len(ids) for ids in prompts], 0)
    return {
        "input_ids": _padded(prompts, pad),
        "attention_mask": mask,
        "labels": labels,
        "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels),
    }


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of every counted token of the answers, [N]; logits [B, T, V], labels [B, T]."""
    counts = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits.float()[counts], labels[counts], reduction="none")


@torch.no_grad()
def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch: int
) -> list[str]:
    """One answer to each prompt, special tokens aside, in the order given. The model's mode is kept."""
    training = model.training
    model.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        mask = _padded([[1] * len(ids) for ids in rows], 0).to(model.device)
        ids = _padded(rows, tokenizer.pad_token_id).to(model.device)
        said = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1
        )
        answers += tokenizer.batch_decode(said, skip_special_tokens=True)
    model.train(training)
    return answers


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*ids, *[value] * (width - len(ids))] for ids in rows])
