"""Fine-tuning of encoder-decoders through transformers' Seq2SeqTrainer, on rows that we tokenise ourselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from alignment.core.artifact import Artifact
from alignment.core.config import DataRef
from alignment.core.context import Context
from alignment.core.errors import DataError
from alignment.data.rows import Row, load_rows, write_rows
from alignment.memory.announce import announce_memory
from alignment.models.encoding import listed, require_short
from alignment.models.load import load_tokenizer, parameter_counts, token_limit
from alignment.models.seq2seq import collate, greedy_answers, load_seq2seq, token_losses
from alignment.models.training import Ordered, ReportCallback, find_checkpoint, report_callback
from alignment.seq2seq.config import Seq2SeqConfig
from alignment.seq2seq.figures import answer_figures
from alignment.tuning import carry_out, early_stopping, how_to_load, supervised_arguments


def run(config: Seq2SeqConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    started = time.time()
    tokenizer: Any = load_tokenizer(inputs["model"].path)
    model = load_seq2seq(inputs["model"].path, **how_to_load(config, context.seed_for("adapter")))
    train = _table(config, config.data, "data", model, tokenizer, inputs)
    validation = (
        _table(config, config.validation, "validation", model, tokenizer, inputs) if config.validation else None
    )
    checkpoint = find_checkpoint(context)
    report = report_callback(context, checkpoint)
    trainer = _trainer(config, context, model, tokenizer, train, validation, report)
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(train["prompt"], train["answer"], strict=True))
    memory = announce_memory(config, inputs["model"].path, longest, context)
    tuned = carry_out(trainer, config, context, tokenizer, checkpoint)
    measured = _measure(config, trainer.model, tokenizer, validation, context) if validation and tuned.trained else {}
    best = tuned.finish()
    return {
        "train_tokens": round(report.tokens),
        "steps": tuned.steps,
        "rows": len(train),
        "train_loss": report.losses["train_loss"],
        **measured,
        "seconds": round(time.time() - started, 2),
        **memory,
        **parameter_counts(trainer.model),  # type: ignore[arg-type]
        **best,
    }


class _Trainer(Ordered, Seq2SeqTrainer):
    """Seq2SeqTrainer that counts the tokens it trains on."""

    report: ReportCallback

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if model.training:
            self.report.tokens += float(num_items_in_batch) / self.current_gradient_accumulation_steps
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def _trainer(
    config: Seq2SeqConfig,
    context: Context,
    model: Any,
    tokenizer: Any,
    train: datasets.Dataset,
    validation: datasets.Dataset | None,
    report: ReportCallback,
) -> _Trainer:
    def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
        prompts, answers = ([row[name] for row in rows] for name in ("prompt", "answer"))
        return collate(model, prompts, answers, tokenizer.pad_token_id)

    trainer = _Trainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            **supervised_arguments(config, context), remove_unused_columns=False, prediction_loss_only=True
        ),
        data_collator=batch,
        train_dataset=train,  # type: ignore[arg-type]
        eval_dataset=validation,  # type: ignore[arg-type]
        processing_class=tokenizer,
        compute_loss_func=mean_token_loss,
        callbacks=[report, *early_stopping(config)],
    )
    trainer.report = report
    if config.group_by_length:
        trainer.group_by_length(list(map(len, train["prompt"])))
    return trainer


def mean_token_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """-log p a token of the answers. num_items_in_batch: the tokens of the optimiser step, over all its passes; a model's own loss
    is a mean over one pass, which weights tokens by the company they are in."""
    losses = token_losses(outputs.logits, labels)
    return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)


def _measure(
    config: Seq2SeqConfig, model: Any, tokenizer: Any, rows: datasets.Dataset, context: Context
) -> dict[str, float]:
    """Loss a token, and of greedy answers exact match and ROUGE, as `validation_*`. The answers stay in `answers.jsonl`."""
    total, count = 0.0, 0
    training = model.training
    model.eval()
    for start in range(0, len(rows), config.batch_size):
        part = rows[start : start + config.batch_size]
        inputs = collate(model, part["prompt"], part["answer"], tokenizer.pad_token_id)
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        labels = inputs.pop("labels")
        with torch.no_grad():
            losses = token_losses(model(**inputs).logits, labels)
        total, count = total + losses.sum().item(), count + len(losses)
    model.train(training)
    answers = greedy_answers(model, tokenizer, list(rows["prompt"]), config.max_new_tokens, config.batch_size)
    targets = tokenizer.batch_decode(list(rows["answer"]), skip_special_tokens=True)
    prompts = tokenizer.batch_decode(list(rows["prompt"]), skip_special_tokens=True)
    shown = zip(prompts, answers, targets, strict=True)
    write_rows(
        [{"prompt": prompt, "answer": answer, "target": target} for prompt, answer, target in shown],
        context.workdir / "answers.jsonl",
    )
    figures = {"loss": total / count, **answer_figures(answers, targets)}
    return {f"validation_{name}": value for name, value in figures.items()}


def _table(
    config: Seq2SeqConfig, ref: DataRef, where: str, model: Any, tokenizer: Any, inputs: Mapping[str, Artifact]
) -> datasets.Dataset:
    """Token ids of prompt and answer of every row."""
    rows = load_rows(ref, inputs.get(where), ("prompt", "completion"), where)
    chats = [
        number
        for number, row in enumerate(rows, 1)
        if not (isinstance(row["prompt"], str) and isinstance(row["completion"], str))
    ]
    if chats:
        what = f"{listed(chats)}: chat messages, which an encoder-decoder does not read"
        raise DataError(
            where, what, "prompt and completion as text", "write them anew with `template`, or name a `format`"
        )
    limit = token_limit(model, tokenizer, config.max_length)
    cut = config.on_long == "truncate"
    prompts = tokenizer([row["prompt"] for row in rows], truncation=cut, max_length=limit)["input_ids"]
    answers = _answers(tokenizer, rows)
    answer_limit = token_limit(model, tokenizer, config.max_answer_length or config.max_length)
    answers = [ids[:answer_limit] for ids in answers] if cut else answers
    require_short(prompts, limit, f"{where}, prompt")
    require_short(answers, answer_limit, f"{where}, completion")
    return datasets.Dataset.from_dict({"prompt": prompts, "answer": answers})


def _answers(tokenizer: Any, rows: Sequence[Row]) -> list[list[int]]:
    """Each ends in one EOS unless its row says `finished: false`."""
    eos, found = tokenizer.eos_token_id, []
    for row, ids in zip(rows, tokenizer(text_target=[row["completion"] for row in rows])["input_ids"], strict=True):
        bare = ids[:-1] if ids and ids[-1] == eos else ids
        found.append([*bare, eos] if row.get("finished", True) else bare)
    return found
