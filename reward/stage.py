"""Reward-model training: Bradley-Terry on pairs through trl's RewardTrainer, on rows that we tokenise ourselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import PrinterCallback
from trl.trainer.reward_config import RewardConfig as TrlRewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from alignment.core.artifact import Artifact
from alignment.core.context import Context
from alignment.data.rows import Row, load_rows
from alignment.memory.announce import announce_memory
from alignment.models.encoding import Encoded, encode_answer, encode_row, fit, fitting_pairs
from alignment.models.load import context_length, load_tokenizer, parameter_counts
from alignment.models.reward_model import new_reward_model, separate_pad
from alignment.models.training import Ordered, find_checkpoint, report_callback, trainer_arguments
from reward.config import RewardConfig
from reward.scorer import Normalisation, collate, raw_scores

_PAIR = ("prompt", "chosen", "rejected")


def run(config: RewardConfig, inputs: Mapping[str, Artifact], context: Context) -> dict[str, Any]:
    started = time.time()
    tokenizer = load_tokenizer(inputs["model"].path)
    model = new_reward_model(inputs["model"].path, config.pooling, seed=context.seed_for("head"))
    separate_pad(model, tokenizer)
    limit = min(length for length in (config.max_length, context_length(model), 1 << 30) if length)
    pairs = load_rows(config.data, inputs.get("data"), _PAIR, "data")
    pairs, train = _encode_pairs(tokenizer, pairs, limit, "data")
    held_out = load_rows(config.validation, inputs.get("validation"), _PAIR, "validation") if config.validation else []
    held_out, validation = _encode_pairs(tokenizer, held_out, limit, "validation") if held_out else ([], None)
    reference = _reference(config, inputs, tokenizer, limit, train)

    memory = announce_memory(config, inputs["model"].path, max(len(row.ids) for side in train for row in side), context)
    checkpoint = find_checkpoint(context)
    trainer = _trainer(config, context, model, tokenizer, train)
    report = report_callback(context, checkpoint)
    trainer.add_callback(report)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    normalisation = Normalisation.of(raw_scores(model, reference))
    measured = _measure(model, held_out, *validation) if validation else {}
    if trainer.is_world_process_zero():
        model.save_pretrained(context.workdir)
        tokenizer.save_pretrained(context.workdir)
        normalisation.write(context.workdir)
    return {
        "pairs": len(pairs),
        "steps": trainer.state.global_step,
        "train_loss": report.losses["train_loss"],
        **measured,
        "reward_mean": normalisation.mean,
        "reward_std": normalisation.std,
        "seconds": round(time.time() - started, 2),
        **memory,
        **parameter_counts(model),
    }


class _Trainer(Ordered, RewardTrainer):
    pass


def _trainer(
    config: RewardConfig, context: Context, model: Any, tokenizer: Any, train: tuple[list[Encoded], list[Encoded]]
) -> _Trainer:
    def collate_pairs(examples: Sequence[Row]) -> dict[str, Tensor]:
        """First the chosen, then the rejected answers of a batch, as RewardTrainer's loss expects."""
        sides = ("chosen", "rejected")
        return collate([Encoded(row[f"{s}_ids"], row[f"{s}_mask"]) for s in sides for row in examples], model)

    columns = {}
    for side, encoded in zip(("chosen", "rejected"), train, strict=True):
        columns |= {f"{side}_ids": [row.ids for row in encoded], f"{side}_mask": [row.mask for row in encoded]}
    arguments: dict[str, Any] = trainer_arguments(config, context)
    arguments |= {"num_train_epochs": config.epochs, "max_length": None, "remove_unused_columns": False}
    trainer = _Trainer(
        model=model,
        args=TrlRewardConfig(**arguments),
        data_collator=collate_pairs,  # type: ignore[arg-type]
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=tokenizer,
    )
    trainer.group_by_length(
        [max(map(len, pair)) for pair in zip(columns["chosen_ids"], columns["rejected_ids"], strict=True)]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _encode_pairs(
    tokenizer: Any, rows: Sequence[Row], limit: int, where: str
) -> tuple[list[Row], tuple[list[Encoded], list[Encoded]]]:
    """The rows that can be learned from, and their chosen and rejected answers, each with its prompt."""
    chosen, rejected = (
        [encode_answer(tokenizer, row["prompt"], row[side], row.get(f"{side}_finished", True)) for row in rows]
        for side in ("chosen", "rejected")
    )
    kept = fitting_pairs(chosen, rejected, limit, (f"{where}, chosen", f"{where}, rejected"))
    return [rows[i] for i in kept], ([chosen[i] for i in kept], [rejected[i] for i in kept])


def _reference(
    config: RewardConfig,
    inputs: Mapping[str, Artifact],
    tokenizer: Any,
    limit: int,
    train: tuple[list[Encoded], list[Encoded]],
) -> list[Encoded]:
    """The answers whose mean reward is called 0."""
    if config.normalise_on is None:
        return [*train[0], *train[1]]
    rows = load_rows(config.normalise_on, inputs.get("normalise_on"), ("prompt", "completion"), "normalise_on")
    return fit([encode_row(tokenizer, row) for row in rows], limit, "error", "normalise_on")


def _measure(model: Any, rows: Sequence[Row], chosen: list[Encoded], rejected: list[Encoded]) -> dict[str, float]:
    """Held-out loss and accuracy on the labels, and on clean gold where the rows tell it (ties left out)."""
    margin = raw_scores(model, chosen) - raw_scores(model, rejected)
    measured = {
        "validation_pairs": len(rows),
        "validation_loss": bradley_terry_loss(margin).item(),
        "validation_accuracy": (margin > 0).float().mean().item(),
    }
    if all("chosen_gold" in row and "rejected_gold" in row for row in rows):
        gold = torch.tensor([row["chosen_gold"] - row["rejected_gold"] for row in rows])
        clear = gold != 0
        measured["gold_accuracy"] = (margin.sign() == gold.sign())[clear].float().mean().item()
        measured["label_gold_agreement"] = (gold > 0)[clear].float().mean().item()
    return measured


def bradley_terry_loss(margin: Tensor) -> Tensor:
    """-log P(chosen beats rejected), averaged; margin [B] = reward of the chosen minus that of the rejected."""
    return -torch.nn.functional.logsigmoid(margin).mean()
