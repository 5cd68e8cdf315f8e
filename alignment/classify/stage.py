"""Sequence classification through transformers' Trainer, on rows that we tokenise ourselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import EvalPrediction, Trainer, TrainingArguments

from alignment.classify.config import ClassifyConfig
from alignment.classify.figures import classification, confusion, macro_f1
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import Row, load_rows
from alignment.memory.announce import announce_memory
from alignment.models.classifier import (
    collate,
    encode_texts,
    is_classifier,
    label_logprobs,
    labels_of,
    load_classifier,
    new_classifier,
)
from alignment.models.encoding import listed
from alignment.models.load import load_tokenizer, parameter_counts, read_config, token_limit
from alignment.models.training import Ordered, find_checkpoint, report_callback
from alignment.tuning import carry_out, early_stopping, how_to_load, supervised_arguments


def run(config: ClassifyConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    started = time.time()
    tokenizer: Any = load_tokenizer(inputs["model"].path, generates=False)
    rows = load_rows(config.data, inputs.get("data"), ("text", "label"), "data")
    labels = _labels(rows, inputs["model"].path)
    model = _load(config, inputs["model"], labels, tokenizer.pad_token_id, context)
    limit = token_limit(model, tokenizer, config.max_length)
    train = _table(tokenizer, rows, labels, limit, config.on_long, "data")
    validation = None
    if config.validation is not None:
        held_out = load_rows(config.validation, inputs.get("validation"), ("text", "label"), "validation")
        validation = _table(tokenizer, held_out, labels, limit, config.on_long, "validation")
    context.log.info(f"{len(train)} rows of {len(labels)} labels: {_counted(train['labels'], labels)}")
    checkpoint = find_checkpoint(context)
    report = report_callback(context, checkpoint)
    trainer = _trainer(config, context, model, tokenizer, train, validation)
    trainer.add_callback(report)
    memory = announce_memory(config, inputs["model"].path, max(map(len, train["input_ids"])), context)
    tuned = carry_out(trainer, config, context, tokenizer, checkpoint)
    best = tuned.finish()
    measured = {}
    if validation and (best or tuned.trained):
        left = load_classifier(context.workdir).to(model.device) if best else trainer.model  # pyright: ignore[reportArgumentType]
        measured = _measure(left, validation, tokenizer.pad_token_id)
    return {
        "labels": labels,
        "rows": len(train),
        "steps": tuned.steps,
        "train_loss": report.losses["train_loss"],
        **measured,
        "seconds": round(time.time() - started, 2),
        **memory,
        **parameter_counts(trainer.model),  # type: ignore[arg-type]
        **best,
    }


def _labels(rows: Sequence[Row], folder: Path) -> list[str]:
    """Those of the rows, sorted; in the order of the model's head, where it has one for the same labels."""
    found = sorted({str(row["label"]) for row in rows})
    known = list((read_config(folder).id2label or {}).values())
    return known if is_classifier(folder) and sorted(known) == found else found


def _load(config: ClassifyConfig, base: Artifact, labels: Sequence[str], pad: int, context: Context) -> Any:
    """The classifier to train."""
    if len(labels) < 2:
        what = f"all rows have the label {labels[0]!r}"
        raise DataError("data", what, "at least two labels", "use rows of every label")
    model = new_classifier(base.path, labels, **how_to_load(config, context.seed_for("head")))
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = (
        pad  # by which a decoder finds the last token
    )
    return model


class _Trainer(Ordered, Trainer):
    pass


def _trainer(
    config: ClassifyConfig,
    context: Context,
    model: Any,
    tokenizer: Any,
    train: datasets.Dataset,
    validation: datasets.Dataset | None,
) -> _Trainer:
    def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
        labels = torch.tensor([row["labels"] for row in rows])
        return collate([row["input_ids"] for row in rows], tokenizer.pad_token_id) | {"labels": labels}

    trainer = _Trainer(
        model=model,
        args=TrainingArguments(**supervised_arguments(config, context), remove_unused_columns=False),
        data_collator=batch,
        train_dataset=train,  # type: ignore[arg-type]
        eval_dataset=validation,  # type: ignore[arg-type]
        processing_class=tokenizer,
        compute_loss_func=mean_cross_entropy,
        compute_metrics=_accuracy_and_f1,
        preprocess_logits_for_metrics=_logits_alone,
        callbacks=early_stopping(config),
    )
    if config.group_by_length:
        trainer.group_by_length(list(map(len, train["input_ids"])))
    return trainer


def mean_cross_entropy(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """-log p of the right labels, over the rows of an optimiser step; logits [B, K], labels [B]. num_items_in_batch: the step's
    rows, over all its passes. A model's own loss is a mean over one pass, which weights rows by the company they are in."""
    total = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _logits_alone(logits: Any, labels: Tensor) -> Tensor:
    """An encoder-decoder gives its states beside them."""
    return logits[0] if isinstance(logits, tuple) else logits


def _accuracy_and_f1(prediction: EvalPrediction) -> dict[str, float]:
    """For the curves along training."""
    logits: Any = prediction.predictions
    truth: Any = prediction.label_ids
    table = confusion(truth, logits.argmax(-1), logits.shape[-1])
    return {"accuracy": float((truth == logits.argmax(-1)).mean()), "macro_f1": float(macro_f1(table))}


def _measure(model: Any, rows: datasets.Dataset, pad: int) -> dict[str, Any]:
    """Held-out loss in nats, accuracy, macro F1, the figures of each class and the table of confusions, as `validation_*`."""
    logprobs = label_logprobs(model, rows["input_ids"], pad)
    truth = torch.tensor(rows["labels"])
    table = confusion(truth.tolist(), logprobs.argmax(-1).tolist(), logprobs.shape[-1])
    figures = classification(table, labels_of(model))
    loss = torch.nn.functional.nll_loss(logprobs, truth).item()
    return {f"validation_{name}": value for name, value in {"rows": len(rows), "loss": loss, **figures}.items()}


def _table(
    tokenizer: Any, rows: Sequence[Row], labels: Sequence[str], limit: int, on_long: Any, where: str
) -> datasets.Dataset:
    """input_ids and labels, as numbers. Raises DataError for labels that the training rows do not have."""
    numbers = {label: number for number, label in enumerate(labels)}
    if unknown := [number for number, row in enumerate(rows, 1) if str(row["label"]) not in numbers]:
        what = f"{listed(unknown)}: label {str(rows[unknown[0] - 1]['label'])!r}, which no training row has"
        raise DataError(where, what, f"one of {', '.join(labels)}", "use rows with the same labels")
    if chats := [number for number, row in enumerate(rows, 1) if not isinstance(row["text"], str)]:
        what = f"{listed(chats)}: chat messages, which a classifier does not read"
        raise DataError(where, what, "text in each row", "write them anew with `template`")
    ids = encode_texts(tokenizer, [row["text"] for row in rows], limit, on_long, where)
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": [numbers[str(row["label"])] for row in rows]})


def _counted(numbers: Sequence[int], labels: Sequence[str]) -> str:
    return ", ".join(f"{list(numbers).count(number)} {label}" for number, label in enumerate(labels))
