"""Supervised fine-tuning through trl's SFTTrainer, on rows that we tokenise ourselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from transformers import EarlyStoppingCallback
from trl.data_utils import pack_dataset
from trl.trainer.sft_config import SFTConfig as TrlSFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.order import Endless
from alignment.data.rows import Row, load_rows
from alignment.models.encoding import Encoded, encode_row, fit, listed
from alignment.models.load import context_length, load_tokenizer, parameter_counts
from alignment.models.training import (
    LengthGrouped,
    ReportCallback,
    find_checkpoint,
    report_callback,
    trainer_arguments,
)
from alignment.sft.config import SFTConfig
from alignment.tuning import carry_out, load_for_tuning

_IGNORED = -100


def run(config: SFTConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    started = time.time()
    tokenizer = load_tokenizer(inputs["model"].path)
    model = load_for_tuning(config, inputs["model"].path, context)
    limit = min(length for length in (config.max_length, context_length(model), 1 << 30) if length)
    train = _dataset(_training_rows(config, tokenizer, limit, inputs, context), limit, config.packing)
    validation = (
        _dataset(_encoded(config, config.validation, "validation", tokenizer, limit, inputs), limit, config.packing)
        if config.validation
        else None
    )
    checkpoint = find_checkpoint(context)
    report = report_callback(context, checkpoint)
    trainer = _trainer(config, context, model, tokenizer, train, validation, _length(config, train, inputs), report)
    tuned = carry_out(trainer, config, context, tokenizer, checkpoint)
    losses = {"train_loss": report.losses["train_loss"]}
    if validation is not None and tuned.trained:
        losses["validation_loss"] = trainer.evaluate()["eval_loss"]
    best = tuned.finish()
    return {
        "train_tokens": round(report.tokens),
        "steps": tuned.steps,
        "rows": len(train),
        **losses,
        "seconds": round(time.time() - started, 2),
        **parameter_counts(trainer.model),  # type: ignore[arg-type]
        **best,
    }


class _Trainer(SFTTrainer):
    """SFTTrainer that counts the tokens it trains on and takes rows in an order that a resumed run repeats."""

    report: ReportCallback
    group_by_length: bool

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if model.training:  # num_items_in_batch spans all ranks and all passes of this optimiser step
            self.report.tokens += float(num_items_in_batch) / self.current_gradient_accumulation_steps
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.group_by_length:
            return super()._get_train_sampler(train_dataset)
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]  # type: ignore[index]
        return LengthGrouped(lengths, self.args.train_batch_size, self.args.seed)


def _trainer(
    config: SFTConfig,
    context: Context,
    model: Any,
    tokenizer: Any,
    train: datasets.Dataset,
    validation: datasets.Dataset | None,
    length: dict[str, Any],
    report: ReportCallback,
) -> _Trainer:
    arguments: dict[str, Any] = trainer_arguments(config, context) | length
    if config.evaluate_every is not None:
        arguments |= {"eval_strategy": "steps", "eval_steps": config.evaluate_every}
    callbacks: list[Any] = [report]
    if config.early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(config.early_stopping.patience))
        arguments |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
        arguments |= {"save_steps": config.evaluate_every}  # the best weights must be among the saved ones
    arguments |= {"max_length": None, "padding_free": config.packing, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = _Trainer(
        model=model,
        args=TrlSFTConfig(**arguments),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.report, trainer.group_by_length = report, config.group_by_length and not config.packing
    return trainer


def _training_rows(
    config: SFTConfig, tokenizer: Any, limit: int, inputs: Mapping[str, Artifact], context: Context
) -> list[Encoded]:
    """The rows to learn, and among them as many of earlier data as `replay.share` asks for; those are drawn once."""
    rows = _encoded(config, config.data, "data", tokenizer, limit, inputs)
    if config.replay is None:
        return rows
    old = _encoded(config, config.replay.data, "replay.data", tokenizer, limit, inputs)
    order = Endless(len(old), context.seed_for("replay"))
    count = round(len(rows) * config.replay.share / (1 - config.replay.share))
    context.log.info(f"{len(rows)} rows to learn, {count} to replay of {len(old)}")
    return rows + [old[order[place]] for place in range(count)]


def _encoded(
    config: SFTConfig, ref: DataRef, name: str, tokenizer: Any, limit: int, inputs: Mapping[str, Artifact]
) -> list[Encoded]:
    """Rows of one reference as token ids."""
    rows = load_rows(ref, inputs.get(name), where=name)
    _require_format(rows, name)
    return fit([encode_row(tokenizer, row) for row in rows], limit, config.on_long, name)


def _dataset(rows: Sequence[Encoded], limit: int, packing: bool) -> datasets.Dataset:
    """input_ids and labels; several rows in one sequence, if they are to be packed."""
    table = datasets.Dataset.from_dict(
        {
            "input_ids": [row.ids for row in rows],
            "labels": [
                [token if counts else _IGNORED for token, counts in zip(row.ids, [False, *row.mask[1:]], strict=True)]
                for row in rows
            ],
        }
    )
    return pack_dataset(table, limit, "bfd") if packing else table


def _length(config: SFTConfig, train: datasets.Dataset, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """How long to train, as trl's arguments."""
    if config.steps is not None:
        return {"max_steps": config.steps}
    if config.epochs is not None:
        return {"num_train_epochs": config.epochs}
    counted = sum(label != _IGNORED for labels in train["labels"] for label in labels)
    tokens_a_step = counted / len(train) * config.batch_size * config.gradient_accumulation
    return {"max_steps": max(1, round(inputs["match_tokens"].summary["train_tokens"] / tokens_a_step))}


def _require_format(rows: Sequence[Row], where: str) -> None:
    """Every row in the format of the first. Raises DataError naming those that are not."""
    formats = (("prompt", "completion"), ("messages",), ("text",))
    wanted = next((fields for fields in formats if all(field in rows[0] for field in fields)), None)
    if wanted is None:
        raise DataError(
            where,
            f"row 1 has the fields {', '.join(map(str, rows[0]))}",
            "prompt and completion, or messages, or text",
            "rename the fields, or use another data set",
        )
    bad = [number for number, row in enumerate(rows, 1) if not all(row.get(field) for field in wanted)]
    if bad:
        raise DataError(
            where,
            f"{listed(bad)}: {' or '.join(wanted)} is missing or empty",
            f"each row to hold {' and '.join(wanted)}",
            "mend them",
        )
