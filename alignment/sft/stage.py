"""Supervised fine-tuning through trl's SFTTrainer, on rows that we tokenise ourselves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import datasets
from torch.utils.data import SequentialSampler
from trl.trainer.sft_config import SFTConfig as TrlSFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from alignment.anchors import Anchored, KlAnchor, kl_anchor, weight_anchor
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.memory.announce import announce_memory
from alignment.models.load import context_length, load_tokenizer, parameter_counts
from alignment.models.training import Ordered, ReportCallback, find_checkpoint, report_callback
from alignment.sft.config import SFTConfig
from alignment.sft.curriculum import ordered
from alignment.sft.rows import Reader, Rows, sequences
from alignment.tuning import carry_out, early_stopping, load_for_tuning, of_model_left, supervised_arguments


def run(config: SFTConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    started = time.time()
    tokenizer = load_tokenizer(inputs["model"].path)
    model = load_for_tuning(config, inputs["model"].path, context)
    limit = min(length for length in (config.max_length, context_length(model), 1 << 30) if length)
    reader = Reader(config, tokenizer, limit, inputs, context)
    rows = reader.training()
    if config.order is not None:
        rows = ordered(rows, config, inputs, context, tokenizer)
    train = sequences(rows, limit, config.packing)
    held_out = reader.read(config.validation, "validation") if config.validation is not None else None
    validation = sequences(held_out, limit, config.packing) if held_out is not None else None
    length = _length(config, rows, len(train), inputs)
    checkpoint = find_checkpoint(context)
    report = report_callback(context, checkpoint)
    trainer = _trainer(config, context, model, tokenizer, train, validation, length, report)
    if config.order is not None:
        trainer.sampler = SequentialSampler(rows.lengths)
    elif config.group_by_length and not config.packing:
        trainer.group_by_length(rows.lengths.tolist())
    longest = limit if config.packing else int(rows.lengths.max())
    memory = announce_memory(config, inputs["model"].path, longest, context)
    trainer.anchor = weight_anchor(config, model, tokenizer, limit, inputs, context)
    trainer.kl_anchor = kl_anchor(config, model, inputs["model"].path)
    tuned = carry_out(trainer, config, context, tokenizer, checkpoint)
    measured = {}
    if validation is not None and tuned.trained:
        measured["validation_loss"] = trainer.evaluate()["eval_loss"]
    best = tuned.finish()
    return {
        "train_tokens": round(report.tokens),
        "steps": tuned.steps,
        "rows": len(train),
        **({"mixture": rows.parts} if rows.parts else {}),
        "train_loss": report.losses["train_loss"],
        **of_model_left(measured, tuned, best),
        **trainer.held(),
        "seconds": round(time.time() - started, 2),
        **memory,
        **parameter_counts(trainer.model),  # type: ignore[arg-type]
        **best,
    }


class _Trainer(Ordered, Anchored, SFTTrainer):
    """SFTTrainer that counts the tokens it trains on, and can be anchored to old behaviour."""

    report: ReportCallback
    kl_anchor: KlAnchor | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if model.training:  # num_items_in_batch spans all ranks and all passes of this optimiser step
            self.report.tokens += float(num_items_in_batch) / self.current_gradient_accumulation_steps
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if model.training and self.kl_anchor is not None:
            loss = loss + self.kl_anchor.loss(inputs, num_items_in_batch, self.accelerator.autocast())
        return loss

    def held(self) -> dict[str, float]:
        """How far the anchor has let the model go."""
        return super().held() | ({"anchor_kl": self.kl_anchor.divergence} if self.kl_anchor else {})


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
    arguments: dict[str, Any] = supervised_arguments(config, context) | length
    arguments |= {"max_length": None, "padding_free": config.packing, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = _Trainer(
        model=model,
        args=TrlSFTConfig(**arguments),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        callbacks=[report, *early_stopping(config)],
    )
    trainer.report = report
    return trainer


def _length(config: SFTConfig, rows: Rows, count: int, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Where another stage says how long to train: that, as an argument of trl's. count: of the sequences that hold the rows, several
    each if they are packed."""
    if config.match_tokens is None:
        return {}
    tokens_a_step = rows.counted.sum() / count * config.batch_size * config.gradient_accumulation
    return {"max_steps": max(1, round(inputs["match_tokens"].summary["train_tokens"] / tokens_a_step))}
