"""DPO and KTO through trl's trainers, on rows that we tokenise ourselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
from trl.trainer.dpo_config import DPOConfig as TrlDPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig as TrlKTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from alignment.anchors import Anchored, weight_anchor
from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.rows import Row, load_rows
from alignment.memory.announce import announce_memory
from alignment.models.load import context_length, load_to_read, load_tokenizer, parameter_counts
from alignment.models.training import Ordered, find_checkpoint, report_callback, trainer_arguments
from alignment.preference.config import DPOConfig, KTOConfig, PreferenceTraining
from alignment.preference.rows import collate_answers, collate_pairs, encoded_answers, encoded_pairs
from alignment.tuning import carry_out, load_for_tuning, of_model_left

Encode = Callable[[Any, Sequence[Row], int, str], list[dict[str, Any]]]


def run_dpo(config: DPOConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    arguments = {"loss_type": list(config.loss), "loss_weights": list(config.loss.values())}
    arguments |= {"label_smoothing": config.label_smoothing}
    return _run(config, inputs, context, encoded_pairs, partial(_dpo_trainer, arguments))


def run_kto(config: KTOConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    arguments = {"loss_type": config.loss, "desirable_weight": config.desirable_weight}
    arguments |= {"undesirable_weight": config.undesirable_weight}
    return _run(config, inputs, context, encoded_answers, partial(_kto_trainer, arguments))


def _run(
    config: PreferenceTraining,
    inputs: Mapping[str, Artifact],
    context: Context,
    encode: Encode,
    make_trainer: Callable[..., Any],
) -> dict[str, Any]:
    started = time.time()
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    model = load_for_tuning(config, inputs["model"].path, context)
    limit = min(length for length in (config.max_length, context_length(model), 1 << 30) if length)
    tables = {
        name: datasets.Dataset.from_list(encode(tokenizer, load_rows(ref, inputs.get(name), where=name), limit, name))
        for name, ref in (("data", config.data), ("validation", config.validation))
        if ref is not None
    }
    checkpoint = find_checkpoint(context)
    report = report_callback(context, checkpoint)
    length = {"max_steps": config.steps} if config.steps is not None else {"num_train_epochs": config.epochs}
    trainer = make_trainer(
        trainer_arguments(config, context)
        | length
        | {"beta": config.beta, "max_length": None, "remove_unused_columns": False},
        model=model,
        ref_model=_reference(config, inputs),
        train_dataset=tables["data"],
        eval_dataset=tables.get("validation"),
        processing_class=tokenizer,
        callbacks=[report],
    )
    lengths = _lengths(tables["data"])
    trainer.group_by_length(lengths)
    memory = announce_memory(config, inputs["model"].path, max(lengths), context)
    trainer.anchor = weight_anchor(config, model, tokenizer, limit, inputs, context)
    tuned = carry_out(trainer, config, context, tokenizer, checkpoint)
    found = trainer.evaluate() if "validation" in tables and tuned.trained else {}
    wanted = [name for name in ("loss", "rewards/accuracies") if f"eval_{name}" in found]
    measured = {f"validation_{name}": found[f"eval_{name}"] for name in wanted}
    best = tuned.finish()
    return {
        "rows": len(tables["data"]),
        "steps": tuned.steps,
        "train_tokens": round(report.tokens),
        "train_loss": report.losses["train_loss"],
        **trainer.held(),
        **of_model_left(measured, tuned, best),
        "seconds": round(time.time() - started, 2),
        **memory,
        **parameter_counts(trainer.model),
        **best,
    }


def _reference(config: PreferenceTraining, inputs: Mapping[str, Artifact]) -> Any:
    """The model that the policy is held against; None = the base of peft's adapter, without it."""
    if config.reference is not None:
        return load_to_read(inputs["reference"].path)
    adapter_is_apart = config.peft is not None and config.peft.merges
    return None if adapter_is_apart else load_to_read(inputs["model"].path)


def _lengths(table: Any) -> list[int]:
    """Of each row, the longer side of a pair."""
    columns = [table[name] for name in table.column_names if name.endswith("_ids")]
    return [max(map(len, row)) for row in zip(*columns, strict=True)]


class _OwnRows(Ordered, Anchored):
    """A trl trainer that takes rows as they come, and counts the tokens."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if model.training:
            self.report.tokens += int(inputs["completion_mask"].sum())  # type: ignore[attr-defined]
        return super().compute_loss(model, inputs, *args, **options)  # type: ignore[misc]


class _DPO(_OwnRows, DPOTrainer):
    pass


class _KTO(_OwnRows, KTOTrainer):
    pass


def _dpo_trainer(own: Mapping[str, Any], arguments: Mapping[str, Any], **parts: Any) -> _DPO:
    collator: Any = partial(collate_pairs, pad=parts["processing_class"].pad_token_id)
    trainer = _DPO(args=TrlDPOConfig(**arguments, **own), data_collator=collator, **parts)
    trainer.report = parts["callbacks"][0]  # type: ignore[attr-defined]
    return trainer


def _kto_trainer(own: Mapping[str, Any], arguments: Mapping[str, Any], **parts: Any) -> _KTO:
    collator: Any = partial(collate_answers, pad=parts["processing_class"].pad_token_id)
    trainer = _KTO(args=TrlKTOConfig(**arguments, **own), data_collator=collator, **parts)
    trainer.report = parts["callbacks"][0]  # type: ignore[attr-defined]
    return trainer
