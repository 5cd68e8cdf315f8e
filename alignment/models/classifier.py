"""Sequence classifiers: a pretrained encoder or decoder under a new head, one logit a label.

An encoder is read at its first token, a decoder at its last. transformers finds that one as the last token that is not the pad,
so a text must not end in the pad: where EOS is the pad, ends are left out. Batches are padded on the right, since an encoder's
first token stands at position 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from alignment.core.config import Precision
from alignment.core.errors import DataError, ModelError
from alignment.models.config import FreezeConfig, PeftConfig, QuantizationConfig
from alignment.models.encoding import length_batches, listed, require_short
from alignment.models.load import from_pretrained, made_trainable, read_config
from alignment.models.precision import DTYPES, held_as

_ARCHITECTURE = "ForSequenceClassification"
_POOLERS = (r".*pooler",)  # between trunk and head, and new where the model was trained without
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}


def new_classifier(
    path: str | Path,
    labels: Sequence[str],
    precision: Precision = "fp32",
    peft: PeftConfig | None = None,
    quantization: QuantizationConfig | None = None,
    freeze: FreezeConfig | None = None,
    seed: int = 0,
) -> PreTrainedModel | Any:
    """A model folder's trunk under a head for these labels, in training state. What the folder does not hold is drawn from `seed`
    alone; a head that it has for as many labels stays. A `PeftModel` when `peft` is given, with head and other new weights
    trained whole beside the adapter.

    Raises ModelError where there is no such head for the architecture, or the folder lacks weights of the trunk.
    """
    config = read_config(path)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    heads = _heads(config, path)
    options = {"config": config, "output_loading_info": True, **held_as(precision, quantization, [*heads, *_POOLERS])}
    with torch.random.fork_rng(), _no_key_report():
        torch.manual_seed(seed)
        model, loaded = from_pretrained(
            AutoModelForSequenceClassification, path, ignore_mismatched_sizes=True, **options
        )
    missing = {*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])}
    new = _new_parts(missing, heads, path)
    return made_trainable(model, peft, freeze, seed, "SEQ_CLS", new).train()


def load_classifier(path: str | Path, precision: Precision = "fp32") -> PreTrainedModel:
    """A trained classifier, in evaluation state. Raises ModelError if the folder holds none, or one of a single output."""
    config = read_config(path)
    if not is_classifier(path) or config.num_labels < 2:
        what = f"{(config.architectures or ['no known architecture'])[0]} with {config.num_labels} outputs"
        remedy = "train one with a stage of kind classify"
        raise ModelError(str(path), what, "a sequence classifier with an output for each label", remedy)
    return from_pretrained(AutoModelForSequenceClassification, path, dtype=DTYPES[precision]).eval()


def is_classifier(path: str | Path) -> bool:
    """Whether a model folder holds a sequence classifier, by its config."""
    return any(name.endswith(_ARCHITECTURE) for name in read_config(path).architectures or [])


def labels_of(model: Any) -> list[str]:
    """The names of a classifier's labels, in the order of its logits."""
    return [str(model.config.id2label[number]) for number in range(model.config.num_labels)]


def encode_texts(
    tokenizer: Any, texts: Sequence[str], limit: int, on_long: Literal["error", "truncate"], where: str
) -> list[list[int]]:
    """Each text's token ids, with the tokenizer's own special tokens, the pad aside.

    Raises DataError for texts without a token, and for those of more than `limit` tokens unless `on_long` says truncate.
    """
    found = tokenizer(list(texts), truncation=on_long == "truncate", max_length=limit)["input_ids"]
    rows = [_without_pad_at_the_end(ids, tokenizer.pad_token_id) for ids in found]
    require_short(rows, limit, where)
    if empty := [number for number, ids in enumerate(rows, 1) if not ids]:
        raise DataError(where, f"{listed(empty)}: no token", "a text in each row", "mend or drop these rows")
    return rows


def collate(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, T], padded on the right."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows]),
    }


@torch.inference_mode()
def label_logprobs(model: Any, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """log p of every label [B, K] in the order given, float32 on the CPU. The model's mode is kept."""
    training = model.training
    model.eval()
    logprobs = torch.empty(len(rows), model.config.num_labels)
    for batch in length_batches([len(ids) for ids in rows], _BATCH_TOKENS[model.device.type]):
        inputs = collate([rows[index] for index in batch], pad)
        logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
        logprobs[batch] = logits.float().log_softmax(-1).cpu()
    model.train(training)
    return logprobs


def _heads(config: Any, path: str | Path) -> list[str]:
    """Names of the parts beside the trunk. The model is laid out without weights."""
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        what = f"no classification head for a model of type {config.model_type!r}: {str(error).splitlines()[0][:80]}"
        raise ModelError(str(path), what, "an encoder or decoder such as BERT or GPT-2", "use another model") from None
    parts = [(name, part) for name, part in model.named_children() if name != model.base_model_prefix]
    return [name for name, part in parts if any(True for _ in part.parameters())]


def _new_parts(missing: set[str], heads: Sequence[str], path: str | Path) -> list[str]:
    """Names of the modules without weights in the folder: the heads, and BERT's pooler where it was trained without one.
    Raises ModelError for any other, which would start from nothing unnoticed."""
    in_trunk = {key.rpartition(".")[0] for key in missing if key.partition(".")[0] not in heads}
    if lost := sorted(name for name in in_trunk if "pooler" not in name):
        what = f"its weights lack {lost[0]}{f' and {len(lost) - 1} more parts' if len(lost) > 1 else ''}"
        raise ModelError(str(path), what, "all weights that its config.json asks for", "fetch the model again")
    return [*heads, *sorted(in_trunk)]


def _without_pad_at_the_end(ids: list[int], pad: int) -> list[int]:
    end = len(ids)
    while end and ids[end - 1] == pad:
        end -= 1
    return ids[:end]


@contextmanager
def _no_key_report() -> Iterator[None]:
    """That the head is new and the language model's unused needs no warning."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
